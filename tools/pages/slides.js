// The keys of a clicker, and the arrows, go from slide to slide.
const steps = {PageDown: 1, ArrowRight: 1, ArrowDown: 1, " ": 1, PageUp: -1, ArrowLeft: -1, ArrowUp: -1};
addEventListener("keydown", (event) => {
  const slides = [...document.querySelectorAll(".slide")];
  const fits = slides.every((slide) => slide.offsetHeight <= innerHeight + 1);
  const inside = event.target.closest("a, summary, [tabindex]"); // they need the keys themselves
  if (!(event.key in steps) || !fits || inside || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const now = slides.findIndex((slide) => slide.getBoundingClientRect().bottom > 1);
  const next = Math.min(Math.max(now + steps[event.key], 0), slides.length - 1);
  slides[next].scrollIntoView();
});
