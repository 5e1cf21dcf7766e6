"use strict";

/** The attention of one place, computed from q, k and position tables as they are stored; needs no browser. */
const Attention = (() => {
  const opened = new WeakMap();
  let halves; // every 16-bit float

  /** Numbers in base64, float16 or float32, as a Float32Array. */
  function numbers(text, type = "float32") {
    const letters = atob(text), bytes = new Uint8Array(letters.length);
    for (let n = 0; n < bytes.length; n++) bytes[n] = letters.charCodeAt(n);
    if (type === "float32") return new Float32Array(bytes.buffer);
    halves ??= Float32Array.from({ length: 65536 }, (_, bits) => half(bits));
    const short = new Uint16Array(bytes.buffer), found = new Float32Array(short.length);
    for (let n = 0; n < short.length; n++) found[n] = halves[short[n]];
    return found;
  }

  /** A 16-bit float's value. */
  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }

  /** A block's arrays, decoded when they are first asked for. */
  function open(block) {
    if (!opened.has(block)) {
      const read = (text, type) => text && numbers(text, type);
      opened.set(block, block.kind === "field" ? { rows: numbers(block.rows) } : {
        q: read(block.q, block.dtype), k: read(block.k, block.dtype), table_h: read(block.table_h), table_w: read(block.table_w),
      });
    }
    return opened.get(block);
  }

  function dot(a, from, b, at, count) {
    let sum = 0;
    for (let n = 0; n < count; n++) sum += a[from + n] * b[at + n];
    return sum;
  }

  /** What a query adds to each row or column of keys for its place alone, unscaled. */
  function placed(block, query, from, table, at, side) {
    const first = block.position === "absolute" ? 0 : side - 1 - at;
    return Float64Array.from({ length: side }, (_, key) => dot(query, from, table, (first + key) * block.dim, block.dim));
  }

  /** Scaled logits of one head's query at (y, x) with every key; `part` is both, content or position. */
  function logits(block, head, y, x, part = "both") {
    const { q, k, table_h, table_w } = open(block), { height, width, dim } = block;
    const from = (head * height * width + y * width + x) * dim, found = new Float64Array(height * width);
    if (k && part !== "position") {
      for (let key = 0; key < found.length; key++) found[key] = dot(q, from, k, (head * found.length + key) * dim, dim);
    }
    if (table_h && part !== "content") {
      const down = placed(block, q, from, table_h, y, height), across = placed(block, q, from, table_w, x, width);
      for (let key = 0; key < found.length; key++) found[key] += down[Math.floor(key / width)] + across[key % width];
    }
    return found.map((value) => value * block.scale);
  }

  /** Scaled logits of one head's query at (y, x) with each row of a position table: every offset, used on this map or not. */
  function products(block, head, y, x, name) {
    const { q, [name]: rows } = open(block), { height, width, dim } = block, from = (head * height * width + y * width + x) * dim;
    return Float64Array.from({ length: rows.length / dim }, (_, n) => dot(q, from, rows, n * dim, dim) * block.scale);
  }

  function softmax(values) {
    const largest = values.reduce((a, b) => Math.max(a, b), -Infinity);
    const powers = values.map((value) => Math.exp(value - largest));
    const total = powers.reduce((a, b) => a + b, 0);
    return powers.map((power) => power / total);
  }

  /** Weights of one head from (y, x), H·W of them; of a receptive field, those of the nearest place that has them. */
  function row(block, head, y, x, part = "both") {
    if (block.kind !== "field") return softmax(logits(block, head, y, x, part));
    const nearest = (places, at) => places.reduce((best, place, n) => Math.abs(place - at) < Math.abs(places[best] - at) ? n : best, 0);
    const down = nearest(block.down, (y + 0.5) / block.height), across = nearest(block.across, (x + 0.5) / block.width);
    const count = block.height * block.width, first = (down * block.across.length + across) * count;
    return Float64Array.from(open(block).rows.subarray(first, first + count));
  }

  /** The mean of several rows, each with its weight. */
  function mean(rows, weights = rows.map(() => 1)) {
    const found = new Float64Array(rows[0].length), total = weights.reduce((a, b) => a + b, 0);
    rows.forEach((one, n) => one.forEach((value, key) => { found[key] += value * weights[n] / total; }));
    return found;
  }

  /** Of a row: entropy as a share of log N, and the mean offset and distance from (y, x), in cells. */
  function spread(block, weights, y, x) {
    let entropy = 0, down = 0, right = 0, distance = 0;
    weights.forEach((weight, key) => {
      const dy = Math.floor(key / block.width) - y, dx = key % block.width - x;
      entropy -= weight > 0 ? weight * Math.log(weight) : 0;
      down += weight * dy;
      right += weight * dx;
      distance += weight * Math.hypot(dy, dx);
    });
    return { entropy: entropy / Math.log(Math.max(weights.length, 2)), down, right, distance };
  }

  /** A learnt table as a map: logits of a head's mean query by offset, or by coordinate where positions are absolute. */
  function table(block, head) {
    const { q, table_h, table_w } = open(block), { dim } = block, tokens = block.height * block.width;
    const query = new Float64Array(dim);
    for (let n = 0; n < tokens * dim; n++) query[n % dim] += q[head * tokens * dim + n] / tokens;
    const height = table_h.length / dim, width = table_w.length / dim;
    const side = (rows, count) => Array.from({ length: count }, (_, n) => dot(query, 0, rows, n * dim, dim) * block.scale);
    const down = side(table_h, height), across = side(table_w, width);
    const values = Float64Array.from({ length: height * width }, (_, n) => down[Math.floor(n / width)] + across[n % width]);
    return { values, height, width };
  }

  return { numbers, logits, products, row, mean, spread, table };
})();

if (typeof module !== "undefined") module.exports = Attention;
