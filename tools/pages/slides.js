// The keys of a clicker, and the arrows, go from slide to slide. On one that is taller than the
// window, they first scroll, as usual.
const steps = {PageDown: 1, ArrowRight: 1, ArrowDown: 1, " ": 1, PageUp: -1, ArrowLeft: -1, ArrowUp: -1};
addEventListener("keydown", (event) => {
  const slides = [...document.querySelectorAll(".slide")];
  const inside = event.target.closest("a, summary, [tabindex]"); // they need the keys themselves
  if (!(event.key in steps) || inside || event.ctrlKey || event.altKey || event.metaKey) return;
  const now = slides.findIndex((slide) => slide.getBoundingClientRect().bottom > 1);
  const box = slides[now].getBoundingClientRect();
  if (steps[event.key] > 0 ? box.bottom > innerHeight + 1 : box.top < -1) return;
  event.preventDefault();
  const next = Math.min(Math.max(now + steps[event.key], 0), slides.length - 1);
  slides[next].scrollIntoView();
});
