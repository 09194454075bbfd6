"""Delete what the notebooks have saved and what `make` has built, and say so file by file."""

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [ROOT / name for name in ("notebooks/saved_data", "build", "site", "demo")]


def main():
    for folder in FOLDERS:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            megabytes = path.stat().st_size / 1e6
            print(f"Deleting {path.relative_to(ROOT)} ({megabytes:,.1f} MB)")
        if folder.exists():
            shutil.rmtree(folder)
        else:
            print(f"Nothing to delete in {folder.relative_to(ROOT)}")
    print("data/ and the notebooks themselves stay as they are.")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    sys.exit(main())
