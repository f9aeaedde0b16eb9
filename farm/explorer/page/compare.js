"use strict";
/* Two images on the same place: behind a slider, taking turns, subtracted, or side by side. */

(() => {
  const { element } = farm;
  const dialog = document.getElementById("compare");
  const MODES = { slider: "Slider", flicker: "Flicker", difference: "Difference", beside: "Side by side" };
  let mode = "slider";
  let gain = 4;
  let timer = 0;

  /** Put an image among the two to compare, or take it out again. */
  farm.pick = (row) => {
    const id = farm.ids[row];
    const picked = farm.state.compare;
    if (picked.includes(id)) { farm.set({ compare: picked.filter((one) => one !== id) }); farm.say("taken out of the comparison"); return; }
    if (farm.status(row) !== "rendered") { farm.say("there is no image to compare"); return; }
    const compare = [...picked, id].slice(-2);
    if (compare.length === 2) farm.set({ compare, open: "", against: mode }, { step: true });
    else { farm.set({ compare }); farm.say("picked; pick another one to compare it with"); }
  };

  farm.showCompare = () => {
    if (farm.state.compare.length < 2) { farm.say("pick a second image: Ctrl-click, or c"); return; }
    farm.set({ against: mode }, { step: true });
  };

  farm.followAgainst = () => {
    clearInterval(timer);
    const wanted = farm.state.against;
    if (!wanted || farm.state.compare.length < 2) { if (dialog.open) dialog.close(); return; }
    mode = MODES[wanted] ? wanted : "slider";
    draw();
    if (!dialog.open) dialog.showModal();
    dialog.focus(); // what had the focus was drawn anew
  };

  function draw() {
    const rows = farm.state.compare.map((id) => farm.rowOf.get(id));
    const button = (text, label, act, pressed) => element("button", {
      type: "button", title: label, "aria-label": label, onclick: act,
      "aria-pressed": pressed === undefined ? null : String(pressed) }, text);
    const modes = Object.entries(MODES).map(([key, text], i) => element("button", {
      type: "button", id: `mode-${key}`, title: `${text}  (${i + 1})`, "aria-pressed": String(mode === key),
      onclick: () => farm.set({ against: key }) }, text));
    const tools = element("div", { class: "zoom-head" }, element("span", { class: "tabs" }, ...modes));
    if (mode === "difference") {
      tools.append(element("label", { class: "chooser" }, element("span", {}, "gain"), element("input", {
        type: "range", min: 1, max: 16, step: 1, value: gain, id: "gain", "aria-label": "Gain of the difference",
        oninput: (event) => { gain = Number(event.target.value); dialog.querySelector(".pair").style.setProperty("--gain", gain); } })));
    }
    tools.append(button("⇄", "Change sides", () => farm.set({ compare: [...farm.state.compare].reverse(), against: mode })),
                 button("✕", "Close  (Esc)", close));
    dialog.replaceChildren(tools, pair(rows), differences(rows));
  }

  function pair(rows) {
    const place = element("div", { class: `pair ${mode}` });
    place.style.setProperty("--gain", gain);
    const images = rows.map((row, side) => {
      const image = element("img", { alt: side ? "second" : "first", draggable: "false" });
      image.src = farm.imageAddress(row);
      return image;
    });
    const frame = element("div", { class: "frame" }, ...images);
    place.append(frame);
    if (mode === "slider") {
      const range = element("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50, class: "wipe", id: "wipe",
        "aria-label": "How much of the first image is shown",
        oninput: () => frame.style.setProperty("--at", `${range.value}%`) });
      frame.style.setProperty("--at", "50%");
      frame.append(element("i", { class: "line" }), range);
    }
    if (mode === "flicker") {
      let isSecond = false;
      const turn = () => { isSecond = !isSecond; frame.classList.toggle("second", isSecond); };
      timer = setInterval(turn, 600);
      frame.addEventListener("click", turn);
    }
    // Both are shown at the larger one's proportions, as large as there is room.
    let loaded = 0;
    images.forEach((image) => image.addEventListener("load", () => {
      loaded += 1;
      if (loaded < 2) return;
      const [wide, high] = ["naturalWidth", "naturalHeight"].map((side) => Math.max(...images.map((one) => one[side])));
      frame.style.setProperty("--ratio", `${wide} / ${high}`);
      frame.style.setProperty("--wide", wide);
      frame.style.setProperty("--high", high);
      frame.classList.toggle("enlarged", Math.max(wide, high) <= 300);
      frame.classList.add("loaded");
    }));
    return place;
  }

  function differences(rows) {
    const groups = ["variable", "setting", "choice"];
    const telling = farm.columns.filter((column) => groups.includes(column.group)
      || ["render_ms", "denoiser_evaluations", "device", "model_sha256"].includes(column.name));
    const differ = telling.filter((column) => column.text(rows[0]) !== column.text(rows[1]));
    const table = element("table", { class: "differences" },
      element("tr", {}, element("th", {}), element("th", {}, mode === "slider" ? "left" : "first"),
              element("th", {}, mode === "slider" ? "right" : "second")),
      ...differ.map((column) => element("tr", {}, element("th", { title: column.doc }, column.label),
        ...rows.map((row) => element("td", {}, column.text(row))))));
    return differ.length ? table : element("p", { class: "hint" }, "Both were made with the same settings.");
  }

  function close() {
    clearInterval(timer);
    if (farm.state.against) farm.set({ against: "" }, { step: true });
  }

  dialog.tabIndex = -1;
  dialog.addEventListener("close", close);
  dialog.addEventListener("cancel", (event) => { event.preventDefault(); close(); });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) close(); });
  dialog.addEventListener("keydown", (event) => {
    const key = Object.keys(MODES)[Number(event.key) - 1];
    if (key) farm.set({ against: key });
  });
})();
