/* The page: what is drawn, and what mouse, finger and keys do. Texts of models and images are only ever set as text. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const DECADES = 4; // of the logarithmic scale
  const SIDE = 720; // px of a stage's longer side, at least
  const state = { image: 0, part: "both", strength: 0.75, objects: true, log: false, held: false };
  const percent = (share) => `${Number((100 * share).toPrecision(share >= 0.1 ? 3 : 2))}\u00a0%`;

  const rounded = (value) => Number(value.toPrecision(2));

  function towards(down, right) {
    const vertical = down > 0 ? "down" : "up", across = right > 0 ? "right" : "left";
    if (Math.abs(down) > 2 * Math.abs(right)) return vertical;
    return Math.abs(right) > 2 * Math.abs(down) ? across : `${vertical} and ${across}`;
  }

  function loaded(source) {
    const image = new Image();
    image.src = source;
    return image.decode().then(() => image);
  }

  class View {
    constructor(model, number) {
      this.number = number;
      this.root = element("view").content.cloneNode(true).firstElementChild;
      this.find = (selector) => this.root.querySelector(selector);
      this.find("h2").textContent = model.name;
      this.find(".note").textContent = model.note;
      this.stage = this.find(".stage canvas");
      this.map = document.createElement("canvas");
      this.block = 0;
      this.head = -1; // the mean of all
      this.chosen = -1; // no object
      this.find(".blocks select").addEventListener("change", (event) => this.open(Number(event.target.value)));
      this.stage.addEventListener("pointermove", (event) => this.point(event));
      this.stage.addEventListener("pointerdown", (event) => this.press(event));
      this.stage.addEventListener("keydown", (event) => this.key(event));
      Colours.paint(this.find(".scale canvas"), Float64Array.from({ length: 128 }, (_, n) => n), 128, 1, 0, 127);
    }

    get shown() { return data.images[state.image].views[this.number]; }
    get layer() { return this.shown.blocks[this.block]; }

    /** Another image: its picture, blocks and objects. */
    async load() {
      const shown = this.shown;
      this.picture = await loaded(shown.picture);
      this.masks = await Promise.all(shown.found.map((one) => one.mask && loaded(one.mask)));
      const zoom = Math.max(1, SIDE / Math.max(shown.width, shown.height));
      this.stage.width = Math.round(shown.width * zoom);
      this.stage.height = Math.round(shown.height * zoom);
      this.find(".says").textContent = shown.says;
      const select = this.find(".blocks select");
      select.replaceChildren(...shown.blocks.map((block, n) => new Option(`${block.name}, ${block.height} × ${block.width}`, n)));
      this.find(".found").replaceChildren(...shown.found.map((one, n) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = `${one.label} ${one.score.toFixed(2)}`;
        button.addEventListener("click", () => this.choose(this.chosen === n ? -1 : n));
        return button;
      }));
      this.chosen = -1;
      const first = shown.found[0] && shown.found[0].box, { width, height } = shown;
      this.at = first ? [(first[0] + first[2]) / 2 / width, (first[1] + first[3]) / 2 / height] : [0.5, 0.5];
      this.open(Math.min(this.block, shown.blocks.length - 1));
    }

    /** Another block: its heads and tables. */
    open(number) {
      this.block = number;
      this.find(".blocks select").value = number;
      const block = this.layer;
      this.head = this.head < block.heads ? this.head : -1;
      const several = block.heads > 1 ? ["mean of heads"] : [];
      this.buttons = [...several, ...Array.from({ length: block.heads }, (_, n) => `head ${n + 1}`)].map((name, n) => {
        const button = document.createElement("button"), map = document.createElement("canvas"), words = document.createElement("span");
        const head = n - several.length;
        button.type = "button";
        words.textContent = block.kind === "field" ? `95 % of the energy in ${block.side.toFixed(0)} × ${block.side.toFixed(0)} px on average`
          : head < 0 ? name : `${name}. ${block.sentences[head]} Entropy ${block.statistics[head][0].toFixed(2)} of 1.`;
        button.append(map, words);
        button.addEventListener("click", () => { this.head = head; this.draw(); });
        return button;
      });
      this.find(".heads").replaceChildren(...this.buttons);
      this.drawTables(block);
      this.draw();
    }

    drawTables(block) {
      const tables = this.find(".tables"), absolute = block.position === "absolute";
      tables.hidden = !block.table_h;
      if (tables.hidden) return;
      tables.querySelector("p").textContent = absolute ? "Logits of each head's mean query by the key's place."
        : "Logits of each head's mean query by the offset from query to key; the middle is no offset, right is to the right.";
      tables.querySelector("div").replaceChildren(...Array.from({ length: block.heads }, (_, head) => {
        const { values, height, width } = Attention.table(block, head), canvas = document.createElement("canvas");
        const low = Math.min(...values), high = Math.max(...values), best = values.indexOf(high);
        Colours.paint(canvas, values, width, height, low, high);
        const caption = document.createElement("figcaption"), figure = document.createElement("figure");
        const down = Math.floor(best / width), right = best % width;
        const place = absolute ? `row ${down + 1}, column ${right + 1}` : `${down - (height - 1) / 2} down, ${right - (width - 1) / 2} right`;
        caption.textContent = `head ${head + 1}: ${rounded(low)} … ${rounded(high)}, largest at ${place}`;
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", caption.textContent);
        figure.append(canvas, caption);
        return figure;
      }));
    }

    /** Row and column of the map at the place that is looked from. */
    cell() {
      const { height, width } = this.layer, inside = (share, side) => Math.min(side - 1, Math.max(0, Math.floor(share * side)));
      return [inside(this.at[1], height), inside(this.at[0], width)];
    }

    /** Cells of the chosen object and their shares of it. */
    cells() {
      const { height, width } = this.layer, one = this.shown.found[this.chosen], canvas = document.createElement("canvas");
      canvas.width = width;
      canvas.height = height;
      const context = canvas.getContext("2d"), across = width / this.shown.width, down = height / this.shown.height;
      const [x1, y1, x2, y2] = one.box, mask = this.masks[this.chosen];
      if (mask) context.drawImage(mask, one.corner[0] * across, one.corner[1] * down, mask.width * across, mask.height * down);
      else context.fillRect(x1 * across, y1 * down, (x2 - x1) * across, (y2 - y1) * down);
      const pixels = context.getImageData(0, 0, width, height).data, found = [];
      for (let n = 0; n < height * width; n++) if (pixels[4 * n + 3] > 25) found.push([n, pixels[4 * n + 3]]);
      const inside = (share, side) => Math.min(side - 1, Math.max(0, Math.floor(share * side)));
      const middle = [inside((y1 + y2) / 2 / this.shown.height, height), inside((x1 + x2) / 2 / this.shown.width, width)];
      return found.length ? found : [[middle[0] * width + middle[1], 1]];
    }

    /** A head's weights from the place, or from the chosen object. */
    row(head) {
      const block = this.layer, part = block.parts.includes(state.part) ? state.part : "both";
      if (this.chosen < 0) return Attention.row(block, head, ...this.cell(), part);
      const cells = this.cells();
      const rows = cells.map(([n]) => Attention.row(block, head, Math.floor(n / block.width), n % block.width, part));
      return Attention.mean(rows, cells.map(([, share]) => share));
    }

    /** Weights as 0 … 1 of the largest; energy, which spans decades, by its square root. */
    shades(weights) {
      const largest = Math.max(...weights);
      if (state.log) return weights.map((value) => value > 0 ? Math.max(0, 1 + Math.log10(value / largest) / DECADES) : 0);
      return weights.map((value) => this.layer.kind === "field" ? Math.sqrt(value / largest) : value / largest);
    }

    draw() {
      if (!this.picture || !this.picture.complete) return;
      const block = this.layer, { height, width } = block;
      const rows = Array.from({ length: block.heads }, (_, head) => this.row(head)), average = Attention.mean(rows);
      const maps = block.heads > 1 ? [average, ...rows] : rows, at = block.heads > 1 ? this.head + 1 : 0, weights = maps[at];
      maps.forEach((map, n) => {
        Colours.paint(this.buttons[n].firstChild, this.shades(map), width, height, 0, 1);
        this.buttons[n].setAttribute("aria-pressed", n === at);
      });
      Colours.paint(this.map, this.shades(weights), width, height, 0, 1, (share) => state.strength * (0.35 + 0.65 * Math.sqrt(share)));
      const context = this.stage.getContext("2d");
      context.imageSmoothingEnabled = true;
      context.drawImage(this.picture, 0, 0, this.stage.width, this.stage.height);
      context.imageSmoothingEnabled = false;
      context.drawImage(this.map, 0, 0, this.stage.width, this.stage.height);
      if (state.objects) this.drawObjects(context);
      if (this.chosen < 0) this.drawPlace(context);
      const lowest = state.log ? Math.max(...weights) / 10 ** DECADES : 0;
      this.find(".scale span").textContent = state.log ? percent(lowest) : "0";
      const root = block.kind === "field" && !state.log ? " (square root)" : "";
      this.find(".largest").textContent = `${percent(Math.max(...weights))}${root}; ${percent(1 / weights.length)} if even`;
      this.read(block, weights);
      [...this.find(".found").children].forEach((button, n) => button.setAttribute("aria-pressed", n === this.chosen));
      this.find(".found").hidden = !state.objects;
    }

    outline(context, ...box) {
      for (const [colour, line] of [["#000000", 5], ["#ffffff", 2.5]]) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.strokeRect(...box);
      }
    }

    drawPlace(context) {
      const [y, x] = this.cell(), across = this.stage.width / this.layer.width, down = this.stage.height / this.layer.height;
      this.outline(context, x * across, y * down, across, down);
    }

    drawObjects(context) {
      const zoom = this.stage.width / this.shown.width, size = Math.max(15, this.stage.width / 42);
      context.font = `${size}px system-ui, sans-serif`;
      context.textBaseline = "top";
      for (const [n, one] of [...this.shown.found.entries()].reverse()) { // the surest on top
        const [x1, y1, x2, y2] = one.box.map((side) => side * zoom), mask = this.masks[n];
        if (mask) {
          context.globalAlpha = n === this.chosen ? 0.45 : 0.16;
          context.drawImage(mask, one.corner[0] * zoom, one.corner[1] * zoom, mask.width * zoom, mask.height * zoom);
          context.globalAlpha = 1;
        }
        context.strokeStyle = n === this.chosen ? "#ffffff" : "#ffffffb0";
        context.lineWidth = n === this.chosen ? 4 : 2;
        context.strokeRect(x1, y1, x2 - x1, y2 - y1);
        const label = `${one.label} ${one.score.toFixed(2)}`, wide = context.measureText(label).width + 8;
        const left = Math.max(0, Math.min(x1, this.stage.width - wide)), top = Math.max(0, y1 - size - 6);
        context.fillStyle = "#000000b8";
        context.fillRect(left, top, wide, size + 6);
        context.fillStyle = "#ffffff";
        context.fillText(label, left + 4, top + 3);
      }
    }

    /** The same in words, for all and for screen readers. */
    read(block, weights) {
      const { height, width } = block, best = weights.indexOf(Math.max(...weights));
      const cell = [this.shown.height / height, this.shown.width / width], one = this.shown.found[this.chosen];
      const name = block.kind === "field" ? "The last map's" : this.head < 0 && block.heads > 1 ? "The heads' mean" : `Head ${Math.max(this.head, 0) + 1}`;
      const most = `most at row ${Math.floor(best / width) + 1}, column ${best % width + 1} (${percent(weights[best])})`;
      let words;
      if (one) words = `${name} from ${one.label} ${one.score.toFixed(2)}: ${most}.`;
      else {
        const [y, x] = this.cell(), seen = Attention.spread(block, weights, y, x);
        const down = seen.down * cell[0], right = seen.right * cell[1];
        words = `${name} from row ${y + 1}, column ${x + 1} of ${height} × ${width}: ${most}; on average ${Math.hypot(down, right).toFixed(0)} px `
          + `${towards(down, right)}, ${(seen.distance * (cell[0] + cell[1]) / 2).toFixed(0)} px away; entropy ${seen.entropy.toFixed(2)} of 1.`;
      }
      this.stage.setAttribute("aria-label", `${words} Arrow keys move the place.`);
      this.find(".reading").textContent = words;
    }

    /** Where on the picture an event is, as shares of its sides. */
    where(event) {
      const box = this.stage.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    }

    point(event) {
      if (!state.held && this.chosen < 0) linked(this, this.where(event));
    }

    press(event) {
      const at = this.where(event), hit = state.objects ? this.hit(at) : -1;
      if (hit >= 0 && hit !== this.chosen) return this.choose(hit);
      if (this.chosen >= 0) this.choose(-1);
      else if (event.pointerType === "mouse") hold(!state.held);
      return linked(this, at);
    }

    /** The smallest object under a place. */
    hit([x, y]) {
      const { width, height, found } = this.shown, area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
      const under = found.map((one, n) => [n, one.box]).filter(([, [x1, y1, x2, y2]]) => x1 <= x * width && x * width <= x2 && y1 <= y * height && y * height <= y2);
      return under.sort((a, b) => area(a[1]) - area(b[1])).map(([n]) => n)[0] ?? -1;
    }

    choose(number) {
      this.chosen = number;
      this.draw();
    }

    key(event) {
      const { height, width } = this.layer, step = event.shiftKey ? 4 : 1, [y, x] = this.cell();
      const move = { ArrowLeft: [0, -step], ArrowRight: [0, step], ArrowUp: [-step, 0], ArrowDown: [step, 0] }[event.key];
      const blocks = this.shown.blocks.length;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (move) {
        const inside = (place, side) => (Math.min(side - 1, Math.max(0, place)) + 0.5) / side;
        this.chosen = -1;
        linked(this, [inside(x + move[1], width), inside(y + move[0], height)]);
      } else if (event.key === "]") this.open((this.block + 1) % blocks);
      else if (event.key === "[") this.open((this.block + blocks - 1) % blocks);
      else if (/^\d$/.test(event.key) && Number(event.key) <= this.layer.heads) { this.head = Number(event.key) - 1; this.draw(); }
      else if ("bcp".includes(event.key)) setPart({ b: "both", c: "content", p: "position" }[event.key]);
      else if (event.key === "l") element("log").click();
      else if (event.key === "o") element("objects").click();
      else if (event.key === "h") hold(!state.held);
      else if (event.key === "Escape") { hold(false); this.choose(-1); }
      else return;
      event.preventDefault();
    }
  }

  /** Look from a place in one view, and from the same place of the image in the others. */
  function linked(view, at) {
    const [x1, y1, x2, y2] = view.shown.frame, place = [x1 + at[0] * (x2 - x1), y1 + at[1] * (y2 - y1)];
    for (const other of views) {
      const [left, top, right, bottom] = other.shown.frame;
      other.at = other === view ? at : [(place[0] - left) / (right - left), (place[1] - top) / (bottom - top)];
      if (other !== view) other.chosen = -1;
      other.draw();
    }
  }

  function hold(held) {
    state.held = held;
    element("keep").checked = held;
  }

  function setPart(part) {
    const button = document.querySelector(`input[value=${part}]`);
    if (button.disabled) return;
    button.checked = true;
    state.part = part;
    drawAll();
  }

  function drawAll() { views.forEach((view) => view.draw()); }

  async function show(number) {
    state.image = number;
    await Promise.all(views.map((view) => view.load()));
    const parts = views.flatMap((view) => view.shown.blocks.flatMap((block) => block.parts));
    for (const button of document.getElementsByName("part")) button.disabled = !parts.includes(button.value);
    linked(views[0], views[0].at);
  }

  const views = data.models.map((model, number) => new View(model, number));
  element("title").textContent = data.title;
  element("views").append(...views.map((view) => view.root));
  element("views").className = views.length === 1 ? "only" : "";
  element("images").hidden = data.images.length === 1;
  element("image").append(...data.images.map((image, n) => new Option(image.name, n)));
  element("image").addEventListener("change", (event) => show(Number(event.target.value)));
  document.getElementsByName("part").forEach((button) => button.addEventListener("change", () => setPart(button.value)));
  element("strength").addEventListener("input", (event) => { state.strength = Number(event.target.value); drawAll(); });
  element("log").addEventListener("change", (event) => { state.log = event.target.checked; drawAll(); });
  element("objects").addEventListener("change", (event) => {
    state.objects = event.target.checked;
    if (!state.objects) views.forEach((view) => { view.chosen = -1; });
    drawAll();
  });
  element("keep").addEventListener("change", (event) => hold(event.target.checked));
  element("controls").addEventListener("submit", (event) => event.preventDefault());
  show(0).then(() => document.documentElement.setAttribute("data-ready", ""));
})();
