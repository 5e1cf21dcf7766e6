// What test_explore.py does to the page: moves, keys and clicks; what was said goes into the title.
addEventListener("load", async () => {
  const said = [], get = (selector) => document.querySelector(selector);
  const wait = () => new Promise((done) => setTimeout(done, 30));
  while (!("ready" in document.documentElement.dataset)) await wait();
  const view = get(".stage canvas"), box = view.getBoundingClientRect();
  const readings = [...document.querySelectorAll(".reading")];
  const note = () => said.push(readings[0].textContent);
  const press = (key) => view.dispatchEvent(new KeyboardEvent("keydown", { key }));
  const move = (x, y) => {
    const place = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
    view.dispatchEvent(new PointerEvent("pointermove", place));
  };
  note();
  move(0.05, 0.05); note();
  press("ArrowRight"); note();
  press("2"); note();
  press("p"); note();
  press("l"); said.push(get(".scale span").textContent);
  press("h"); move(0.9, 0.9); note();
  press("Escape"); move(0.9, 0.9); note();
  said.push(readings[1].textContent);
  get(".found button").click(); note();
  press("]"); said.push(get(".blocks select").value);
  get("#theme").click(); said.push(document.documentElement.dataset.theme);
  get("#objects").click(); said.push(getComputedStyle(get(".found")).display === "none");
  said.push(document.documentElement.scrollWidth <= innerWidth);
  const asked = performance.getEntriesByType("resource").filter((one) => !one.name.startsWith("data:")).length;
  document.title = JSON.stringify({ said, asked, label: view.getAttribute("aria-label") });
});
