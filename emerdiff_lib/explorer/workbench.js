// The workbench: controls that ask for responses, and an explorer for each of two answers.
//
// `ask(request, tell, signal)` resolves to the answer, telling the share that is done; `remembered` holds what each side was
// asked for, so that a page that is loaded again shows it again.

const SIDES = ["left", "right"];
const NUMBERS = { modulation_strength: "Strength λ", modulation_timestep: "Modulate at t_m", feature_timestep: "Queries at t_f" };
const LAYERS = { feature_layer: "Queries of layer", modulation_layer: "Modulate layer" };
const OTHER = "a folder or hub id …";

async function mountWorkbench(root, { ask, remembered, remember }) {
  const id = `emerdiff-workbench-${mounted++}`;
  const viewport = new Viewport(); // both sides show the same part
  const explorers = {};
  let running = null; // an AbortController

  const named = (name, text, control) => {
    control.id = `${id}-${name}`;
    return element("label", { for: control.id }, text, control);
  };
  const choice = (...names) => {
    const made = element("select");
    made.append(...names.map((name) => element("option", { value: name }, name)));
    return made;
  };
  const image = element("input", { list: `${id}-images`, size: 22, spellcheck: "false", title: "sample:NAME, toyscapes:SEED, or a file's path" });
  const images = element("datalist", { id: `${id}-images` });
  const file = element("input", { type: "file", accept: "image/*", hidden: "" });
  const model = choice("");
  const modelName = element("input", { size: 28, spellcheck: "false", hidden: "", placeholder: "folder or hub id", "aria-label": "Model's folder or hub id" });
  const mode = choice("pixel", "fast");
  const inputs = {};
  for (const name of Object.keys(NUMBERS)) inputs[name] = element("input", { size: 6, inputmode: "decimal" });
  for (const name of Object.keys(LAYERS)) inputs[name] = choice("");
  const timesteps = element("datalist", { id: `${id}-timesteps` });
  for (const name of ["modulation_timestep", "feature_timestep"]) inputs[name].setAttribute("list", timesteps.id);
  const side = choice(...SIDES);
  const compute = element("button", { type: "submit" }, "Compute");
  const cancel = button("Cancel", "Stop computing", () => running?.abort());
  const bar = element("progress", { value: 0, max: 1, "aria-label": "Share of the work that is done" });
  const said = element("span", { role: "status", "aria-live": "polite", class: "emerdiff-said" });
  const settings = element("details", {}, element("summary", {}, "Settings"), element("div", { class: "emerdiff-controls" },
    ...Object.entries(NUMBERS).map(([name, text]) => named(name, text, inputs[name])),
    ...Object.entries(LAYERS).map(([name, text]) => named(name, text, inputs[name]))));
  const models = named("model", "Model", model);
  const form = element("form", {},
    element("div", { class: "emerdiff-controls" }, named("image", "Image", image), button("Choose file", "Upload an image", () => file.click()), file,
      models, modelName, named("mode", "Mode", mode), images, timesteps),
    settings,
    element("div", { class: "emerdiff-controls" }, named("side", "Show on the", side), compute, cancel, bar, said));
  const sections = Object.fromEntries(SIDES.map((name) => [name, element("section", { hidden: "" }, element("h2"), element("div"))]));
  root.classList.add("emerdiff-workbench");
  root.replaceChildren(form, element("div", { class: "emerdiff-sides" }, ...Object.values(sections)));

  const request = (kind) => {
    const given = Object.entries(inputs).filter(([, input]) => input.value !== "");
    const value = (name, text) => (name in LAYERS ? text : Number(text));
    return {
      do: kind, image: image.value.trim(), model: model.value === OTHER ? modelName.value.trim() : model.value,
      settings: { mode: mode.value, ...Object.fromEntries(given.map(([name, input]) => [name, value(name, input.value)])) },
    };
  };

  function fill(asked) { // the controls with what was asked for
    image.value = asked.image;
    mode.value = asked.settings?.mode ?? "pixel";
    model.dataset.wanted = asked.model ?? "";
    for (const [name, input] of Object.entries(inputs)) input.dataset.wanted = asked.settings?.[name] ?? "";
  }

  // What can be chosen with this image, model and mode; empty fields show what they then stand for.
  async function describe() {
    const asked = request("describe");
    asked.model = model.dataset.wanted ?? asked.model;
    const answer = await ask(asked, () => {});
    if (answer.error) return say(answer.error);
    const options = (select, names, empty, wanted) => {
      select.replaceChildren(element("option", { value: "" }, empty), ...names.map((name) => element("option", { value: name }, name)));
      select.value = wanted ?? "";
    };
    const { defaults } = answer;
    const wantedModel = model.dataset.wanted ?? model.value;
    models.hidden = answer.models.length === 0;
    const other = wantedModel !== "" && wantedModel !== OTHER && !answer.models.includes(wantedModel);
    if (other) modelName.value = wantedModel;
    options(model, [...answer.models, OTHER], asked.model ? "what suits the image" : `what suits the image: ${defaults.model}`, other ? OTHER : wantedModel);
    modelName.hidden = model.value !== OTHER;
    images.replaceChildren(...answer.images.map((value) => element("option", { value })));
    timesteps.replaceChildren(...answer.timesteps.map((value) => element("option", { value })));
    for (const [name, input] of Object.entries(inputs)) {
      const wanted = input.dataset.wanted ?? input.value;
      if (name in LAYERS) options(input, answer.layers, `usual: ${defaults[name]}`, answer.layers.includes(wanted) ? wanted : "");
      else [input.value, input.placeholder] = [wanted, defaults[name]];
      delete input.dataset.wanted;
    }
    delete model.dataset.wanted;
  }

  const say = (text) => (said.textContent = text);

  async function show(name, asked) {
    running = new AbortController();
    [compute.disabled, cancel.disabled, bar.value] = [true, false, 0];
    say("Computing …");
    const begun = performance.now();
    const answer = await ask({ ...asked, side: name }, (share) => (bar.value = share), running.signal);
    running = null;
    [compute.disabled, cancel.disabled] = [false, true];
    if (answer.error) return say(answer.error);
    const [title, place] = sections[name].children;
    const k = explorers[name]?.state.k;
    sections[name].hidden = false;
    const { settings, model: by } = answer.data.header;
    title.textContent = [asked.image, by || "the given model", `${settings.mode} mode`,
      `λ = ${settings.modulation_strength} at t = ${settings.modulation_timestep}`, `queries at t = ${settings.feature_timestep}`].join(" · ");
    explorers[name] = await mount(place, answer.data, { viewport, ...(k ? { k } : {}) });
    remember({ ...remembered(), [name]: asked });
    bar.value = 1;
    say(`Done in ${((performance.now() - begun) / 1000).toFixed(1)} s; shown on the ${name}.`);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) show(side.value, request("compute"));
  });
  for (const control of [image, model, modelName, mode]) {
    control.addEventListener("change", () => {
      modelName.hidden = model.value !== OTHER;
      if (model.value !== OTHER || modelName.value.trim()) describe();
    });
  }
  file.addEventListener("change", async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    const reader = new FileReader();
    const content = await new Promise((resolve) => {
      reader.onload = () => resolve(reader.result.split(",")[1]);
      reader.readAsDataURL(chosen);
    });
    const answer = await ask({ do: "upload", name: chosen.name, content }, () => {});
    file.value = "";
    if (answer.error) return say(answer.error);
    image.value = answer.image;
    say("Press Compute.");
    await describe();
  });

  cancel.disabled = true;
  const sides = remembered();
  const last = SIDES.filter((name) => sides[name]).at(-1);
  fill(sides[last]);
  await describe();
  for (const name of SIDES) if (sides[name]) await show(name, sides[name]);
}

const STOPPED = { error: "Cancelled; what is shown stays." };

// The application's: a line of JSON for every step, by the process that serves the page; to hang up is to cancel.
function mountApplication(root, first) {
  const key = `emerdiff ${JSON.stringify(first)}`;
  const ask = async (request, tell, signal) => {
    try {
      const response = await fetch(location.href.split("#")[0], { method: "POST", body: JSON.stringify(request), signal });
      if (!response.ok) return { error: `The server refuses this (${response.status}).` };
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return JSON.parse(text);
        const lines = (text + value).split("\n");
        text = lines.pop();
        for (const line of lines) {
          const answer = JSON.parse(line);
          if (!("progress" in answer)) return answer;
          tell(answer.progress);
        }
      }
    } catch (error) {
      return signal?.aborted ? STOPPED : { error: "The server does not answer; start the application again." };
    }
  };
  const remembered = () => JSON.parse(sessionStorage.getItem(key) ?? "null") ?? { left: { do: "compute", ...first, settings: {} } };
  return mountWorkbench(root, { ask, remembered, remember: (sides) => sessionStorage.setItem(key, JSON.stringify(sides)) });
}

// anywidget's: messages with a number each, answered by the kernel.
function renderWorkbench({ model, el }) {
  const waiting = new Map(); // number → what hears of it
  model.on("msg:custom", (message) => waiting.get(message.number)?.(message));
  const ask = (request, tell, signal) => new Promise((resolve) => {
    const number = Math.floor(Math.random() * 2 ** 50);
    waiting.set(number, (message) => {
      if ("progress" in message) return tell(message.progress);
      waiting.delete(number);
      resolve(message);
    });
    signal?.addEventListener("abort", () => model.send({ do: "stop", number }));
    model.send({ ...request, number });
  });
  const remember = (sides) => { model.set("shown", sides); model.save_changes(); };
  mountWorkbench(el, { ask, remembered: () => model.get("shown"), remember });
}
