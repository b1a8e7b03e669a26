// The explorer: everything that follows from a picture's stored responses, with or without a kernel.
//
// mount(element, data) draws it and returns an object with the numbers behind the pictures; render is anywidget's way in.
// `data` is what payload.py makes: a header of plain values, and arrays as base64.

const TYPES = { int8: Int8Array, uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array };

function decode(array) {
  const bytes = Uint8Array.from(atob(array.base64), (c) => c.charCodeAt(0));
  return new TYPES[array.dtype](bytes.buffer);
}

// -- numbers ----------------------------------------------------------------------------------------------------------

class Responses {
  constructor(data) {
    Object.assign(this, data.header);
    for (const [name, array] of Object.entries(data.arrays)) this[name] = decode(array);
    [this.height, this.width] = this.size; // of the picture that is shown
    [this.rows, this.columns] = this.grid; // of coarse cells
    [this.h, this.w] = this.codesSize; // of the responses
    this.pixels = this.h * this.w;
  }

  // Signed response of part p, channel c, at place i: root codes, as responses.py has them.
  signed(p, c, i) {
    const root = this.codes[(p * 3 + c) * this.pixels + i] / 127;
    return root * Math.abs(root) * this.scales[p];
  }

  place(x, y) {
    const row = Math.min(this.h - 1, Math.floor((y * this.h) / this.height));
    const column = Math.min(this.w - 1, Math.floor((x * this.w) / this.width));
    return row * this.w + column;
  }

  cell(x, y) {
    const row = Math.min(this.rows - 1, Math.floor((y * this.rows) / this.height));
    const column = Math.min(this.columns - 1, Math.floor((x * this.columns) / this.width));
    return row * this.columns + column;
  }

  // Share of every part in one place; they sum to 1.
  shares(i) {
    const lengths = new Float64Array(this.parts);
    for (let p = 0; p < this.parts; p++) {
      const [r, g, b] = [0, 1, 2].map((c) => this.signed(p, c, i));
      lengths[p] = Math.sqrt(r * r + g * g + b * b);
    }
    const mean = lengths.reduce((a, b) => a + b, 0) / this.parts;
    const unlike = new Float64Array(this.parts).fill(Infinity);
    for (let cell = 0; cell < this.rows * this.columns; cell++) {
      let square = 0;
      for (let c = 0; c < 3; c++) {
        const d = (this.colours[c * this.pixels + i] - this.cellColours[c * this.rows * this.columns + cell]) / 255;
        square += d * d;
      }
      const p = this.partOfCell[cell];
      if (square < unlike[p]) unlike[p] = square;
    }
    const found = lengths.map((length, p) => {
      const like = this.colourWidth > 0 ? Math.exp(-unlike[p] / (2 * this.colourWidth ** 2)) : 1;
      return Math.max(0, length - this.floor * mean) * like + 1e-6 * length;
    });
    const total = found.reduce((a, b) => a + b, 0);
    return total > 0 ? found.map((value) => value / total) : found.fill(1 / this.parts);
  }

  // Which cells a pixel hangs on: a part's share spread evenly over its cells.
  cellsBehind(x, y) {
    const shares = this.shares(this.place(x, y));
    return Array.from(this.partOfCell, (p) => shares[p] / this.cellsOfPart[p]);
  }

  // Share in every place of the part to which a cell belongs.
  pixelsBehind(cell) {
    const part = this.partOfCell[cell];
    return Float64Array.from({ length: this.pixels }, (_, i) => this.shares(i)[part]);
  }

  // Length of the answer to a mask of cells (numbers in [0, 1]), at every place.
  differenceMap(cells) {
    const weight = new Float64Array(this.parts);
    cells.forEach((value, cell) => (weight[this.partOfCell[cell]] += value / this.cellsOfPart[this.partOfCell[cell]]));
    const squares = new Float64Array(this.pixels);
    for (let c = 0; c < 3; c++) {
      const sum = new Float64Array(this.pixels);
      for (let p = 0; p < this.parts; p++) {
        if (weight[p] === 0) continue;
        for (let i = 0; i < this.pixels; i++) sum[i] += weight[p] * this.signed(p, c, i);
      }
      for (let i = 0; i < this.pixels; i++) squares[i] += sum[i] * sum[i];
    }
    return squares.map(Math.sqrt);
  }

  // Segment of every pixel for K segments.
  labels(k) {
    const row = this.numbers.indexOf(k) * this.regions;
    return Uint8Array.from(this.superpixels, (region) => this.groups[row + region]);
  }

  // Share of every cell that lies in one segment.
  cellsOfSegment(labels, segment) {
    const inside = new Float64Array(this.rows * this.columns);
    const all = new Float64Array(this.rows * this.columns);
    for (let y = 0, i = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++, i++) {
        const cell = this.cell(x, y);
        all[cell] += 1;
        if (labels[i] === segment) inside[cell] += 1;
      }
    }
    return Array.from(inside, (count, cell) => count / Math.max(1, all[cell]));
  }
}

// -- pictures ---------------------------------------------------------------------------------------------------------

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// Black, violet, orange, pale yellow: dark to light for every kind of colour vision.
function heat(value) {
  const stops = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
  const at = clamp(value, 0, 1) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(at));
  return stops[low].map((part, c) => part + (at - low) * (stops[low + 1][c] - part));
}

function paint(canvas, width, height, colour) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) picture.data.set([...colour(i), 255], 4 * i);
  context.putImageData(picture, 0, 0);
  return context;
}

const element = (kind, attributes = {}, ...children) => {
  const found = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  found.append(...children);
  return found;
};

const VIEWS = {
  segment: "what the segment moves",
  cells: "the cells behind the pixel",
  pixels: "the pixels behind the cell",
  mask: "what my mask moves",
};

let count = 0;

export function mount(root, data) {
  const responses = new Responses(data);
  const { width, height } = responses;
  const id = `emerdiff-${count++}`;
  const state = { k: responses.k, opacity: 0.55, view: "segment", x: width >> 1, y: height >> 1, mask: new Set() };
  let labels = responses.labels(state.k);
  let pixels = null; // RGBA of the picture

  const label = (text, control) => element("label", { for: control.id }, text, control);
  const slider = (name, text, low, high, step, value) => {
    const control = element("input", { type: "range", id: `${id}-${name}`, min: low, max: high, step, value });
    return [control, label(text, control)];
  };
  const shown = element("output", {}, String(state.k));
  const [kSlider, kLabel] = slider("k", "Segments ", Math.min(...responses.numbers), Math.max(...responses.numbers), 1, state.k);
  kLabel.append(shown);
  const [opacitySlider, opacityLabel] = slider("opacity", "Opacity ", 0, 1, 0.05, state.opacity);
  const view = element("select", { id: `${id}-view` });
  for (const [name, text] of Object.entries(VIEWS)) view.append(element("option", { value: name }, text));
  const clear = element("button", { type: "button" }, "Clear my mask");
  const left = element("canvas", {
    tabindex: 0, role: "img",
    "aria-label": "Picture with its segments. Arrow keys move the point, Enter adds its cell to your mask, Backspace takes it out.",
  });
  const right = element("canvas", { role: "img", "aria-label": "What answers" });
  const status = element("p", { class: "emerdiff-status", role: "status", "aria-live": "polite" });
  root.classList.add("emerdiff-explorer");
  root.replaceChildren(
    element("div", { class: "emerdiff-controls" }, kLabel, opacityLabel, label("Right: ", view), clear),
    element("div", { class: "emerdiff-pictures" }, left, right),
    status,
  );

  function drawLeft() {
    if (!pixels) return;
    const chosen = labels[state.y * width + state.x];
    const context = paint(left, width, height, (i) => {
      const x = i % width;
      const edge = (x + 1 < width && labels[i] !== labels[i + 1]) || (i + width < labels.length && labels[i] !== labels[i + width]);
      const own = [pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2]];
      if (edge && state.opacity > 0) return [255, 255, 255];
      const segment = labels[i];
      const opacity = segment === chosen ? state.opacity : state.opacity * 0.6;
      return own.map((part, c) => (1 - opacity) * part + opacity * responses.palette[3 * segment + c]);
    });
    const [dx, dy] = [width / responses.columns, height / responses.rows];
    context.lineWidth = Math.max(1, width / 128);
    context.strokeStyle = "rgb(255, 140, 0)";
    for (const cell of state.mask) {
      context.strokeRect((cell % responses.columns) * dx + 0.5, Math.floor(cell / responses.columns) * dy + 0.5, dx - 1, dy - 1);
    }
    context.strokeStyle = "white";
    context.strokeRect(state.x - 1.5, state.y - 1.5, 4, 4);
    context.strokeStyle = "black";
    context.strokeRect(state.x - 2.5, state.y - 2.5, 6, 6);
  }

  function values() {
    const cells = responses.rows * responses.columns;
    if (state.view === "cells") return [responses.cellsBehind(state.x, state.y), responses.columns, responses.rows];
    if (state.view === "pixels") return [responses.pixelsBehind(responses.cell(state.x, state.y)), responses.w, responses.h];
    const mask = state.view === "mask"
      ? Array.from({ length: cells }, (_, cell) => Number(state.mask.has(cell)))
      : responses.cellsOfSegment(labels, labels[state.y * width + state.x]);
    return [responses.differenceMap(mask), responses.w, responses.h];
  }

  function drawRight() {
    const [found, columns, rows] = values();
    const top = found.reduce((a, b) => Math.max(a, b), 1e-12);
    paint(right, columns, rows, (i) => heat(found[i] / top));
  }

  function tell() {
    const segment = labels[state.y * width + state.x];
    let area = 0;
    for (const one of labels) area += one === segment;
    const share = ((100 * area) / labels.length).toFixed(1);
    const mask = state.mask.size ? ` My mask has ${state.mask.size} cells.` : "";
    status.textContent =
      `Pixel (${state.x}, ${state.y}), in segment ${segment} of ${state.k}: ${area} pixels, ${share} % of the picture. ` +
      `Right: ${VIEWS[state.view]}.${mask}`;
  }

  // One drawing per frame, however many events there are.
  let waiting = false;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const start = performance.now();
      drawLeft();
      drawRight();
      tell();
      root.dataset.milliseconds = (performance.now() - start).toFixed(1);
      root.dataset.drawn = String(Number(root.dataset.drawn ?? 0) + 1);
    });
  }

  function point(event) {
    const box = left.getBoundingClientRect();
    state.x = clamp(Math.floor(((event.clientX - box.left) * width) / box.width), 0, width - 1);
    state.y = clamp(Math.floor(((event.clientY - box.top) * height) / box.height), 0, height - 1);
    if (state.view === "mask") state.mask.add(responses.cell(state.x, state.y));
    draw();
  }

  left.addEventListener("pointerdown", (event) => { left.setPointerCapture(event.pointerId); point(event); });
  left.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
  left.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 8 : 1;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const cell = responses.cell(state.x, state.y);
    if (moves[event.key]) {
      state.x = clamp(state.x + moves[event.key][0], 0, width - 1);
      state.y = clamp(state.y + moves[event.key][1], 0, height - 1);
    } else if (event.key === "Enter") state.mask.add(cell);
    else if (event.key === "Backspace") state.mask.delete(cell);
    else return;
    event.preventDefault();
    draw();
  });
  kSlider.addEventListener("input", () => {
    state.k = responses.numbers.reduce((a, b) => (Math.abs(b - kSlider.value) < Math.abs(a - kSlider.value) ? b : a));
    shown.textContent = String(state.k);
    labels = responses.labels(state.k);
    draw();
  });
  opacitySlider.addEventListener("input", () => { state.opacity = Number(opacitySlider.value); draw(); });
  view.addEventListener("change", () => { state.view = view.value; draw(); });
  clear.addEventListener("click", () => { state.mask.clear(); draw(); });

  const picture = new Image();
  picture.onload = () => {
    const canvas = element("canvas", { width, height });
    const context = canvas.getContext("2d");
    context.drawImage(picture, 0, 0, width, height);
    pixels = context.getImageData(0, 0, width, height).data;
    draw();
  };
  picture.src = responses.picture;
  return { responses, state, draw };
}

function render({ model, el }) {
  const show = () => mount(el, model.get("data"));
  model.on("change:data", show);
  show();
}

export default { render };
