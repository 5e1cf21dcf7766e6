/* The equation's picture: from one query, content and position logits, their sum, its softmax, and the tables' used parts. */
(() => {
  const { block, pixels, label } = JSON.parse(document.getElementById("data").textContent), { height, width } = block;
  const element = (id) => document.getElementById(id);
  const state = { head: 0, y: 3, x: 3 };
  const signed = (value, digits = 2) => value.toFixed(digits).replace("-", "−").replace(/^−(0\.?0*)$/, "$1");
  const percent = (share) => `${(100 * share).toPrecision(2)}\u00a0%`;
  const inside = (place, side) => Math.min(side - 1, Math.max(0, place));
  const range = (values) => [Math.min(...values), Math.max(...values)];
  const maps = ["image", "content", "position", "both", "weights"].map((id) => element(id));

  function frame(canvas, y, x, kind) {
    const mark = canvas.parentElement.querySelector(`.${kind}`) ?? canvas.parentElement.appendChild(document.createElement("i"));
    mark.className = kind;
    mark.style.left = `${100 * x / width}%`;
    mark.style.top = `${100 * y / height}%`;
  }

  function show(canvas, values, low, text, name) {
    Colours.paint(canvas, values, width, height, low, Math.max(...values));
    canvas.closest("figure").querySelector("span").textContent = text;
    canvas.setAttribute("aria-label", `${name}: ${text}`);
  }

  /** A table's products with the query: all offsets, those that it can have, and that of the largest weight. */
  function strip(id, products, first, side, chosen, name) {
    const [low, high] = range(products), middle = (products.length - 1) / 2, used = (n) => n >= first && n < first + side;
    element(id).replaceChildren(...Array.from(products, (value, n) => {
      const cell = document.createElement("span"), share = (value - low) / (high - low || 1);
      cell.textContent = signed(n - middle, 0);
      cell.title = signed(value);
      cell.style.setProperty("--cell", `rgb(${Colours.viridis(share).map(Math.round)})`);
      cell.style.setProperty("--text", share > 0.5 ? "#000" : "#fff");
      cell.classList.toggle("used", used(n));
      cell.classList.toggle("most", n === chosen);
      return cell;
    }));
    element(id).setAttribute("aria-label", `${name}, ${products.length} of them; used from ${signed(first - middle, 0)} to `
      + `${signed(first + side - 1 - middle, 0)}; that of the largest weight is ${signed(chosen - middle, 0)} and gives ${signed(products[chosen])}`);
  }

  function draw() {
    const { head, y, x } = state, parts = ["content", "position", "both"];
    const [content, position, both] = parts.map((part) => Attention.logits(block, head, y, x, part));
    const weights = Attention.row(block, head, y, x), best = weights.indexOf(Math.max(...weights));
    const down = Math.floor(best / width), right = best % width;
    [content, position, both].forEach((values, n) => {
      const text = range(values).map((value) => signed(value, 1)).join(" … ");
      show(element(parts[n]), values, Math.min(...values), text, ["Content logits", "Position logits", "Their sum"][n]);
    });
    show(element("weights"), weights, 0, `0 … ${percent(weights[best])}`, "Weights");
    for (const canvas of maps) frame(canvas, y, x, "query");
    for (const canvas of maps.slice(3)) frame(canvas, down, right, "most");
    strip("rows", Attention.products(block, head, y, x, "table_h"), height - 1 - y, height, height - 1 + down - y, "Row offsets");
    strip("columns", Attention.products(block, head, y, x, "table_w"), width - 1 - x, width, width - 1 + right - x, "Column offsets");
    [...element("heads").children].forEach((button, n) => button.setAttribute("aria-pressed", n === head));
    const words = `Head ${head + 1}, from row ${y + 1}, column ${x + 1}: most, ${percent(weights[best])}, to row ${down + 1}, column ${right + 1}, `
      + `an offset of ${signed(down - y, 0)} rows and ${signed(right - x, 0)} columns. Its content ${signed(content[best])} and position `
      + `${signed(position[best])} make ${signed(both[best])}. ${block.sentences[head].replace(/, \d+ px.*/, ".")}`;
    element("reading").textContent = words;
    element("image").setAttribute("aria-label", `A handwritten ${label} of ${height} × ${width} pixels. ${words} Arrow keys move the query, 1 to ${block.heads} choose a head.`);
  }

  function move(y, x) {
    Object.assign(state, { y: inside(y, height), x: inside(x, width) });
    draw();
  }

  function point(event) {
    const box = event.target.getBoundingClientRect();
    move(Math.floor((event.clientY - box.top) / box.height * height), Math.floor((event.clientX - box.left) / box.width * width));
  }

  function choose(head) {
    state.head = head;
    draw();
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (step) move(state.y + step[0], state.x + step[1]);
    else if (Number(event.key) >= 1 && Number(event.key) <= block.heads) choose(Number(event.key) - 1);
    else return;
    event.preventDefault();
  }

  element("heads").append(...Array.from({ length: block.heads }, (_, head) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `head ${head + 1}`;
    button.addEventListener("click", () => choose(head));
    return button;
  }));
  element("image").closest("figure").querySelector("span").textContent = `a handwritten ${label}, ${height} × ${width} pixels`;
  Colours.paint(element("image"), Float64Array.from(pixels), width, height, 0, 1);
  Colours.paint(element("scale"), Float64Array.from({ length: 128 }, (_, n) => n), 128, 1, 0, 127);
  for (const canvas of maps) for (const kind of ["pointermove", "pointerdown"]) canvas.addEventListener(kind, point);
  element("image").addEventListener("keydown", key);
  const holder = window.frameElement; // of a page of the same site; none where it stands alone or comes from disk
  if (holder) new ResizeObserver(() => { holder.style.height = `${document.documentElement.offsetHeight + 4}px`; }).observe(document.body);
  draw();
  document.documentElement.setAttribute("data-ready", "");
})();
