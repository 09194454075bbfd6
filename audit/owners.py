"""Finds the modules whose parameters an optimizer steps, and names for both."""

import gc
import re

WRAPPERS = re.compile(r"^((_orig_mod|module)(\.|$))+")


def find_owners(optimizer, variables: dict[int, str]):
    """Return a label, the name of each parameter by its id, and the outermost modules by prefix.

    The label is the same in every run of a script: the names of the modules' global variables, or
    of their classes.
    """
    import torch

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    places = {id(parameter): place for place, parameter in enumerate(parameters)}
    modules = [m for m in gc.get_objects() if issubclass(type(m), torch.nn.Module)]
    inner = {id(child) for module in modules for child in module._modules.values()}
    roots = []
    for module in modules:
        if id(module) not in inner:
            inside = [id(p) for p in module.parameters() if id(p) in places]
            if inside:
                label = variables.get(id(module), type(module).__name__)
                roots.append((-len(inside), label, min(places[i] for i in inside), module))
    roots.sort(key=lambda root: root[:3])
    prefixed = {}
    for number, (_, label, _, module) in enumerate(roots):
        prefix = "" if len(roots) == 1 else label if label not in prefixed else f"{label} {number}"
        prefixed[prefix] = module
    names = {}
    for prefix, module in prefixed.items():
        for name, parameter in module.named_parameters():
            if id(parameter) in places:
                names.setdefault(id(parameter), join(prefix, plain(name)))
    for identity, place in places.items():
        names.setdefault(identity, f"parameter {place}")
    return roots[0][1] if roots else f"{len(places)} parameters", names, prefixed


def variables_of(main) -> dict[int, str]:
    """Return the names of a script's global variables that are modules, by the modules' ids."""
    import torch

    values = [] if main is None else list(vars(main).items())
    return {id(v): name for name, v in reversed(values) if issubclass(type(v), torch.nn.Module)}


def plain(name: str) -> str:
    """Return the name of a parameter or a module without what wrappers put in front of it."""
    return WRAPPERS.sub("", name)


def join(*words: str) -> str:
    """Return the name of something inside of something."""
    return ".".join(word for word in words if word)
