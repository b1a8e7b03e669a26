// The explorer: an image, its segments, and what follows from its stored responses (responses.js), with or without a kernel.
//
// mount(element, data) draws it and resolves to an object with the numbers behind it; renderExplorer is anywidget's way in.

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

const element = (kind, attributes = {}, ...children) => {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

const button = (text, title, act) => {
  const made = element("button", { type: "button", title }, text);
  made.addEventListener("click", act);
  return made;
};

function download(name, blob) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link); // a link outside of the page is not followed everywhere
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Black, violet, orange, pale yellow: dark to light for every kind of colour vision.
const STOPS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

function heat(value) {
  const at = clamp(value, 0, 1) * (STOPS.length - 1);
  const low = Math.min(STOPS.length - 2, Math.floor(at));
  return STOPS[low].map((part, c) => part + (at - low) * (STOPS[low + 1][c] - part));
}

const [WHITE, OUTLINE, NOTHING] = [[255, 255, 255], [255, 214, 0], [0, 0, 0, 0]];

// An image of width × height whose pixel i has colour(i), [r, g, b] or [r, g, b, alpha].
function drawn(width, height, colour) {
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const one = colour(i);
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = one[c];
    image.data[4 * i + 3] = one.length > 3 ? one[3] : 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// What part of the image is seen, shared by the canvases that are to move together.
class Viewport {
  constructor(...canvases) {
    this.canvases = canvases;
    this.reset();
  }

  reset() {
    [this.zoom, this.x, this.y] = [1, 0.5, 0.5]; // x and y: the middle, as shares of width and height
  }

  move(dx, dy) {
    const margin = 0.5 / this.zoom;
    this.x = clamp(this.x + dx, margin, 1 - margin);
    this.y = clamp(this.y + dy, margin, 1 - margin);
    this.apply();
  }

  // Around the point (u, v) of the window, which stays where it is.
  scale(factor, u = 0.5, v = 0.5) {
    const zoom = clamp(this.zoom * factor, 1, 32);
    const change = 1 / this.zoom - 1 / zoom;
    this.zoom = zoom;
    this.move((u - 0.5) * change, (v - 0.5) * change);
  }

  apply() {
    const shift = (middle) => `${100 * (0.5 - middle * this.zoom)}%`;
    for (const canvas of this.canvases) {
      canvas.style.transform = `translate(${shift(this.x)}, ${shift(this.y)}) scale(${this.zoom})`;
    }
  }
}

const VIEWS = {
  segment: "response to the segment",
  cells: "cells behind the pixel",
  pixels: "pixels behind the cell",
  mask: "response to my mask",
};
const TOOLS = {
  select: ["Select", "Click a segment; arrow keys move the point"],
  paint: ["Paint", "Drag to paint a mask of cells (Enter adds one)"],
  erase: ["Erase", "Drag to take cells out of the mask (Backspace takes one)"],
  move: ["Move", "Drag the enlarged image; two fingers do so with every tool"],
};

async function mount(root, data, change = () => {}) {
  const responses = await ImageResponses.from(data);
  const photograph = new Image();
  photograph.src = responses.image;
  await photograph.decode();
  const { width, height, rows, columns } = responses;
  const id = `emerdiff-${Math.random().toString(36).slice(2)}`; // a counter would begin anew: every widget is a module of its own
  const nearest = (wanted) => responses.numbers.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
  const state = {
    k: data.header.k, selected: null, mask: new Set(), x: width >> 1, y: height >> 1, opacity: 0.55, view: "segment", tool: "select",
  };
  let labels = responses.labels(state.k);

  // -- what one sees and presses ------------------------------------------------------------------------------------------

  const label = (text, control, ...after) => element("label", { for: control.id }, text, control, ...after);
  const slider = (name, min, max, step, value) => element("input", { type: "range", id: `${id}-${name}`, min, max, step, value });
  const kSlider = slider("k", Math.min(...responses.numbers), Math.max(...responses.numbers), 1, state.k);
  const kShown = element("output", { for: kSlider.id });
  const opacitySlider = slider("opacity", 0, 1, 0.05, state.opacity);
  const view = element("select", { id: `${id}-view` });
  for (const [name, text] of Object.entries(VIEWS)) view.append(element("option", { value: name }, text));
  const tools = Object.entries(TOOLS).map(([name, [text, title]]) => {
    const made = button(text, title, () => set({ tool: name, ...(name in { paint: 1, erase: 1 } ? { view: "mask" } : {}) }));
    made.dataset.tool = name;
    return made;
  });
  const left = element("canvas", {
    width, height, tabindex: 0, role: "img",
    "aria-label": "Image with its segments. Arrow keys move the point, Enter adds its cell to your mask, Backspace takes it out, "
      + "Escape deselects, plus and minus zoom.",
  });
  const right = element("canvas", { width, height, role: "img", "aria-label": "What responds" });
  const status = element("p", { class: "emerdiff-status", role: "status", "aria-live": "polite" });
  const code = element("pre", { hidden: "" });
  const group = (...children) => element("span", { class: "emerdiff-group" }, ...children);
  const zoom = (factor) => () => viewport.scale(factor);
  const fit = () => { viewport.reset(); viewport.apply(); };
  root.classList.add("emerdiff-explorer");
  root.style.setProperty("--emerdiff-aspect", width / height);
  root.replaceChildren(
    element("div", { class: "emerdiff-controls" },
      label("Segments", kSlider, kShown), label("Opacity", opacitySlider),
      group(...tools, button("Clear", "Empty the mask and select nothing", () => set({ selected: null, mask: new Set() }))),
      group(button("−", "Zoom out (−)", zoom(1 / 1.5)), button("+", "Zoom in (+, or Ctrl and the wheel)", zoom(1.5)), button("Fit", "The whole image (0)", fit)),
      label("Right:", view)),
    element("div", { class: "emerdiff-images" }, element("div", {}, left), element("div", {}, right)),
    status,
    element("div", { class: "emerdiff-controls" }, "Download", group(
      button("Label map", "PNG, a byte a pixel: its segment", () => save("labels")),
      button("Palette", "The same PNG, shown in colours", () => save("palette")),
      button("COCO", "JSON with run-length masks", () => save("coco")),
      button("Segment", "PNG of the selected segment: 255 inside", () => save("segment")),
      button("Mask", "PNG of the painted mask: 255 inside", () => save("mask"))),
      button("Python", "The lines that make it again", () => { code.hidden = !code.hidden; draw(); })),
    code,
  );
  const viewport = new Viewport(left, right);

  // -- drawing --------------------------------------------------------------------------------------------------------------

  const context = element("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  context.drawImage(photograph, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data;
  const thick = Math.max(1, Math.round(Math.max(width, height) / 400));
  const differs = (i, by) => { // within `by` pixels to the right or below
    const x = i % width;
    return (x + by < width && labels[i] !== labels[i + by]) || (i + by * width < labels.length && labels[i] !== labels[i + by * width]);
  };
  // Whether pixel i lies within the selected segment, at its edge
  const outlined = (i) => {
    if (labels[i] !== state.selected) return false;
    const x = i % width;
    return differs(i, thick) || (x >= thick && labels[i - thick] !== labels[i]) || (i >= thick * width && labels[i - thick * width] !== labels[i]);
  };

  const mixed = [0, 0, 0]; // one array for all pixels
  function segmentColour(i) {
    const segment = labels[i];
    const all = state.selected === null;
    if (all && state.opacity > 0 && differs(i, 1)) return WHITE;
    const share = segment === state.selected ? 0 : state.opacity;
    const light = all || segment === state.selected ? 1 : 0.4;
    for (let c = 0; c < 3; c++) mixed[c] = light * ((1 - share) * pixels[4 * i + c] + share * responses.palette[3 * segment + c]);
    return mixed;
  }

  function marks(canvas) {
    const on = canvas.getContext("2d");
    if (state.selected !== null) {
      on.drawImage(drawn(width, height, (i) => (outlined(i) ? OUTLINE : NOTHING)), 0, 0);
    }
    const [dx, dy] = [width / columns, height / rows];
    on.lineWidth = thick;
    on.strokeStyle = "rgb(0, 200, 255)";
    for (const cell of state.mask) {
      on.strokeRect((cell % columns) * dx + thick / 2, Math.floor(cell / columns) * dy + thick / 2, dx - thick, dy - thick);
    }
    if (state.selected === null && state.view !== "cells" && state.view !== "pixels") return;
    for (const [colour, size] of [["white", 2 * thick], ["black", 3 * thick]]) {
      on.strokeStyle = colour;
      on.strokeRect(state.x + 0.5 - size, state.y + 0.5 - size, 2 * size, 2 * size);
    }
  }

  function values() {
    if (state.view === "cells") return [responses.cellsBehind(state.x, state.y), columns, rows];
    if (state.view === "pixels") return [responses.pixelsBehind(responses.cell(state.x, state.y)), responses.w, responses.h];
    const mask = state.view === "mask"
      ? Array.from({ length: rows * columns }, (_, cell) => Number(state.mask.has(cell)))
      : responses.cellsOfSegment(labels, state.selected);
    return [responses.differenceMap(mask), responses.w, responses.h];
  }

  function drawRight() {
    const on = right.getContext("2d");
    if (state.view === "segment" && state.selected === null) {
      on.drawImage(drawn(width, height, (i) => responses.palette.subarray(3 * labels[i], 3 * labels[i] + 3)), 0, 0);
      return;
    }
    const [found, w, h] = values();
    const top = found.reduce((a, b) => Math.max(a, b), 1e-12);
    on.imageSmoothingEnabled = state.view !== "cells";
    on.drawImage(drawn(w, h, (i) => heat(found[i] / top)), 0, 0, width, height);
    marks(right);
  }

  function tell() {
    const counted = (selected) => (100 * labels.reduce((sum, one) => sum + (one === selected), 0)) / labels.length;
    const [y, x] = [state.y / height, state.x / width].map((share, n) => Math.floor(share * responses.imageSize[n]));
    const cells = state.mask.size === 1 ? "1 cell" : `${state.mask.size} cells`;
    const sentences = [
      state.selected === null
        ? `${state.k} segments; click one.`
        : `Segment ${state.selected} of ${state.k} has ${counted(state.selected).toFixed(1)} % of the image; pixel (${x}, ${y}).`,
      state.selected === null && state.view === "segment" ? "" : `Right: ${VIEWS[state.view]}.`,
      state.mask.size ? `My mask has ${cells}.` : state.view === "mask" ? "Paint a mask on the left image." : "",
    ];
    status.textContent = sentences.filter(Boolean).join(" ");
    kShown.textContent = String(state.k);
    [kSlider.value, view.value, root.dataset.tool] = [state.k, state.view, state.tool];
    for (const tool of tools) tool.setAttribute("aria-pressed", tool.dataset.tool === state.tool);
    if (!code.hidden) code.textContent = python();
  }

  // One drawing per frame, however many events there are.
  let waiting = false;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const start = performance.now();
      left.getContext("2d").drawImage(drawn(width, height, segmentColour), 0, 0);
      marks(left);
      drawRight();
      tell();
      root.dataset.milliseconds = (performance.now() - start).toFixed(1);
      root.dataset.drawn = String(Number(root.dataset.drawn ?? 0) + 1);
    });
  }

  // -- changing -------------------------------------------------------------------------------------------------------------

  // Takes any of the state's values, and says what became of them.
  function set(values) {
    const before = state.k;
    Object.assign(state, values);
    if (state.k !== before) {
      labels = responses.labels((state.k = nearest(state.k)));
      if (state.selected !== null && !("selected" in values)) state.selected = labels[state.y * width + state.x];
    }
    const inside = labels.indexOf(state.selected);
    if (inside < 0) state.selected = null; // there are fewer
    else if (labels[state.y * width + state.x] !== state.selected) [state.x, state.y] = [inside % width, Math.floor(inside / width)];
    draw();
    change(state);
  }

  function pointAt(x, y) {
    [state.x, state.y] = [clamp(Math.floor(x), 0, width - 1), clamp(Math.floor(y), 0, height - 1)];
    if (state.tool === "paint" || state.tool === "erase") mark(state.tool === "paint");
    else set({ selected: labels[state.y * width + state.x] });
  }

  function mark(inside) {
    const mask = new Set(state.mask);
    mask[inside ? "add" : "delete"](responses.cell(state.x, state.y));
    set({ mask });
  }

  const fingers = new Map(); // pointers that are down, and where
  const spread = () => {
    const [a, b] = [...fingers.values()];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  };
  function onDown(event) {
    event.currentTarget.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (fingers.size === 1 && state.tool !== "move") follow(event);
  }
  function onMove(event) {
    if (!fingers.has(event.pointerId)) return;
    const before = fingers.size > 1 ? spread() : 0;
    const [x, y] = fingers.get(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (fingers.size === 1 && state.tool !== "move") return follow(event);
    const box = event.currentTarget.getBoundingClientRect(); // of the whole image, enlarged
    if (before > 0) viewport.scale(spread() / before);
    viewport.move((x - event.clientX) / box.width / fingers.size, (y - event.clientY) / box.height / fingers.size);
  }
  function follow(event) {
    const box = event.currentTarget.getBoundingClientRect();
    pointAt(((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height);
  }
  function onWheel(event) {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    event.preventDefault();
    const box = event.currentTarget.parentElement.getBoundingClientRect();
    viewport.scale(1.002 ** -event.deltaY, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }
  for (const canvas of [left, right]) {
    canvas.addEventListener("pointerdown", onDown);
    canvas.addEventListener("pointermove", onMove);
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("wheel", onWheel, { passive: false });
  }
  left.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 8 : 1;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const keys = {
      Enter: () => mark(true), Backspace: () => mark(false), Escape: () => set({ selected: null }),
      "+": zoom(1.5), "-": zoom(1 / 1.5), 0: fit,
    };
    if (moves[event.key]) pointAt(state.x + moves[event.key][0], state.y + moves[event.key][1]);
    else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
  });
  kSlider.addEventListener("input", () => set({ k: nearest(kSlider.value) }));
  opacitySlider.addEventListener("input", () => set({ opacity: Number(opacitySlider.value) }));
  view.addEventListener("change", () => set({ view: view.value }));

  // -- taking out -------------------------------------------------------------------------------------------------------------

  // One of "labels", "palette", "coco", "segment" and "mask", at the image's own size; null where there is nothing to take out.
  async function file(kind) {
    const [h, w] = responses.imageSize;
    if (kind === "mask") {
      const at = (i) => Math.floor((Math.floor(i / w) * rows) / h) * columns + Math.floor(((i % w) * columns) / w);
      return state.mask.size ? png(w, h, Uint8Array.from({ length: h * w }, (_, i) => 255 * state.mask.has(at(i)))) : null;
    }
    const own = responses.labels(state.k, h, w);
    if (kind === "segment") return state.selected === null ? null : png(w, h, own.map((one) => 255 * (one === state.selected)));
    if (kind === "coco") return new Blob([JSON.stringify(coco(own, w, h, (responses.name || "image").replace(/^.*[/\\]/, "")))], { type: "application/json" });
    return png(w, h, own, kind === "palette" ? responses.palette.subarray(0, 3 * state.k) : null);
  }

  async function save(kind) {
    const blob = await file(kind);
    if (!blob) return (status.textContent = kind === "mask" ? "There is no mask; choose Paint and drag." : "No segment is selected; click one.");
    const number = { segment: `segment-${state.selected}-of-${state.k}`, mask: "mask" }[kind] ?? `${kind}-${state.k}`;
    const stem = (responses.name || "image").replace(/^.*[/\\:]/, "").replace(/\.\w+$/, "");
    download(`${stem}-${number}.${kind === "coco" ? "json" : "png"}`, blob);
  }

  // The lines that make it again; `pipe` and `image` where it is not known which they were.
  function python() {
    const { name, model, dtype, seed, settings, changed } = responses;
    const literal = (value) => ({ true: "True", false: "False", null: "None" })[value] ?? JSON.stringify(value);
    const scene = name.match(/^toyscapes:(\d+)$/);
    const options = ["mode", ...changed.filter((one) => one !== "mode")].map((one) => `${one}=${literal(settings[one])}`);
    if (seed !== undefined) options.push(`generator=torch.Generator().manual_seed(${seed})`);
    const image = scene ? `Toyscapes.from_seed(${scene[1]}).image` : name ? literal(name) : "image";
    const lines = [
      "import torch", "from emerdiff_lib import Toyscapes, load_pipeline", "",
      ...(model ? [`pipe = load_pipeline(${literal(model)}, dtype=${literal(dtype)})`] : []),
      `responses = pipe.probe(pipe.cluster(${[image, ...options].join(", ")}))`,
      `labels = responses.segments(${state.k})`,
    ];
    if (state.selected !== null) lines.push(`segment = labels == ${state.selected}`);
    if (state.mask.size) {
      const cells = [...state.mask].sort((a, b) => a - b).join(", ");
      lines.push(`mask = torch.zeros(1, ${rows}, ${columns})`, `mask.view(-1)[[${cells}]] = 1`, "response = responses.difference_maps(mask)");
    }
    return lines.join("\n");
  }

  draw();
  return { responses, state, viewport, set, file, python };
}

// anywidget's: the widget's num_segments, selected and mask are those that are shown.
function renderExplorer({ model, el }) {
  let shown = null;
  const told = () => ({
    k: model.get("num_segments"),
    selected: model.get("selected"),
    mask: new Set(model.get("mask").flat().flatMap((inside, cell) => (inside ? [cell] : []))),
  });
  const hear = () => shown?.set(told());
  const change = (state) => {
    const { rows, columns } = shown.responses;
    const row = (y) => Array.from({ length: columns }, (_, x) => Number(state.mask.has(y * columns + x)));
    model.set({ num_segments: state.k, selected: state.selected, mask: Array.from({ length: rows }, (_, y) => row(y)) });
    model.save_changes();
  };
  const start = async () => {
    shown = await mount(el, model.get("data"), change);
    hear();
  };
  model.on("change:data", start);
  for (const name of ["num_segments", "selected", "mask"]) model.on(`change:${name}`, hear);
  start();
}
