"use strict";
/* One image, as large as there is room, with everything that is known about it. */

(() => {
  const { element } = farm;
  const dialog = document.getElementById("zoom");
  let row = -1;
  let isActual = false; // pixel for pixel instead of fitted
  let shift = { x: 0, y: 0 };

  /** Settings that the A1111 text and the snippet are made of, in the job's order. */
  const settings = () => farm.columns.filter((column) => column.group === "setting");

  farm.open = (which) => farm.set({ open: farm.ids[which] }, { step: true });

  function close() {
    if (farm.state.open) farm.set({ open: "" }, { step: true });
  }

  // --- copying ---------------------------------------------------------------------------------

  /** Text as YAML that means just that, dollar signs and all: YAML reads JSON's quotes. */
  function yamlText(text) {
    return JSON.stringify(text.replaceAll("${", () => "$${")).replace(
      // Legal in JSON's quotes, and not in YAML's.
      /[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]/g,
      (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
  }

  /** A number as YAML, which knows no 1e-7. */
  const yamlNumber = (value) => String(value).replace(/^(-?\d+)e/, "$1.0e");

  const isText = (name) => !["height", "width", "clip_skip", "num_inference_steps", "guidance_scale",
    "guidance_rescale", "eta", "seed"].includes(name);

  /** A whole job file that renders the image of a row again: the same task, so the same id. */
  farm.jobSnippet = async (which) => {
    const { asked } = await farm.details(which);
    const lines = [`# One image of ${JSON.stringify(farm.meta.title)}: farm submit FILE`];
    if (!asked) lines.push("# Size and number type are those that were used; the job may have asked for others.");
    lines.push(`name: one-${farm.ids[which]}`, "defaults:");
    const fields = Object.fromEntries(settings().map((column) => [column.name, column.value(which)]));
    for (const [name, value] of Object.entries({ ...fields, ...asked })) {
      if (value === null) continue;
      lines.push(`  ${name}: ${isText(name) ? yamlText(String(value)) : yamlNumber(value)}`);
    }
    return `${lines.join("\n")}\n`;
  };

  function copyButtons() {
    const prompt = farm.column("prompt")?.value(row);
    const button = (id, text, act) => element("button", { type: "button", id, onclick: act }, text);
    const parts = [];
    if (prompt) parts.push(button("copy-prompt", "Prompt", () => farm.copy(prompt, "prompt")));
    if (farm.status(row) === "rendered") {
      parts.push(button("copy-parameters", "A1111 text", async () => {
        farm.copy((await farm.details(row)).parameters, "A1111 text");
      }));
    }
    parts.push(button("copy-job", "Job", async () => farm.copy(await farm.jobSnippet(row), "job")));
    const path = farm.column("image_path")?.value(row);
    if (path) parts.push(button("copy-path", "Path", () => farm.copy(path, "path")));
    parts.push(button("copy-link", "Link", () => farm.copy(location.href, "link")));
    return element("div", { class: "copies" }, element("span", {}, "Copy"), ...parts);
  }

  // --- what is known ---------------------------------------------------------------------------

  const TITLES = { variable: "Variables", setting: "Settings", choice: "Choices", fact: "How it was made" };
  const FIRST = ["prompt", "negative_prompt"];

  function facts() {
    const parts = [];
    for (const name of FIRST) {
      const text = farm.column(name)?.value(row);
      if (text) parts.push(element("section", { class: "text" }, element("h3", {}, name.replace("_", " ")),
                                   element("p", {}, text)));
    }
    for (const [group, title] of Object.entries(TITLES)) {
      const columns = farm.columns.filter((column) => column.group === group
        && !FIRST.includes(column.name) && column.value(row) !== null
        && !(Array.isArray(column.value(row)) && !column.value(row).length));
      if (!columns.length) continue;
      parts.push(element("section", { class: group }, element("h3", {}, title),
        element("dl", {}, ...columns.flatMap((column) => [
          element("dt", { title: column.doc }, column.label),
          element("dd", {}, column.text(row))]))));
    }
    const rest = element("dl", {});
    parts.push(element("section", { class: "fact" }, rest));
    const asked = row;
    farm.details(row).then((more) => {
      if (asked !== row) return;
      for (const name of ["task_id", "image_sha256"]) {
        if (more[name]) rest.append(element("dt", {}, name), element("dd", {}, more[name]));
      }
    }).catch(() => rest.append(element("dd", {}, "the rest of the metadata cannot be loaded")));
    return parts;
  }

  // --- the stage -------------------------------------------------------------------------------

  function stage() {
    const place = element("div", { class: "stage", id: "stage" });
    if (farm.status(row) !== "rendered") {
      const { headline, reason } = farm.trouble(row);
      place.append(element("div", { class: `tile ${farm.status(row)} large` },
        element("span", { class: "reason" }, element("b", {}, headline), element("span", {}, reason))));
      return place;
    }
    const image = element("img", { alt: farm.describe(row), draggable: "false", id: "picture" });
    image.addEventListener("error", () => {
      place.replaceChildren(element("div", { class: "tile missing large" },
        element("span", { class: "reason" }, element("b", {}, "the image is gone"),
                element("span", {}, farm.column("image_path").value(row)))));
    });
    image.addEventListener("load", () => fit(image));
    image.src = farm.imageAddress(row);
    place.append(image);
    pannable(place, image);
    return place;
  }

  /** Small pictures are enlarged by whole steps, so that pixel art stays what it is. */
  function fit(image) {
    const place = image.parentElement;
    if (!place) return;
    const [wide, high] = [place.clientWidth, place.clientHeight];
    const scale = Math.min(wide / image.naturalWidth, high / image.naturalHeight);
    image.classList.toggle("enlarged", scale >= 2);
    const shown = isActual ? Math.max(1, Math.round(scale) * 2) : scale >= 2 ? Math.floor(scale) : Math.min(1.999, scale);
    image.style.width = `${image.naturalWidth * shown}px`;
    image.style.transform = isActual ? `translate(${shift.x}px, ${shift.y}px)` : "";
    place.classList.toggle("actual", isActual);
  }

  function pannable(place, image) {
    let from = null;
    place.addEventListener("dblclick", () => { isActual = !isActual; shift = { x: 0, y: 0 }; fit(image); });
    place.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, y: event.clientY, at: { ...shift }, pointer: event.pointerId };
    });
    place.addEventListener("pointermove", (event) => {
      if (!from || !isActual || event.pointerId !== from.pointer) return;
      shift = { x: from.at.x + event.clientX - from.x, y: from.at.y + event.clientY - from.y };
      fit(image);
    });
    place.addEventListener("pointerup", (event) => {
      const [dx, dy] = from ? [event.clientX - from.x, event.clientY - from.y] : [0, 0];
      from = null;
      // A swipe on a phone goes to the neighbour.
      if (!isActual && event.pointerType === "touch" && Math.abs(dx) > 60 && Math.abs(dx) > 2 * Math.abs(dy)) {
        go(dx < 0 ? 1 : -1, 0);
      }
    });
  }

  // --- going about -----------------------------------------------------------------------------

  /** Open the neighbour in the grid, where the grid has one. */
  function go(dx, dy) {
    const next = farm.moveFocus(dx, dy);
    if (next !== null) farm.set({ open: farm.ids[next] });
    dialog.focus();
  }

  /** Open the next image in the order of the rows, whatever cell it is in. */
  function follow(step) {
    const rows = farm.shownRows;
    const at = rows.indexOf(row);
    const next = rows[(at + step + rows.length) % rows.length];
    if (next === undefined) return;
    farm.focusRow(next);
    farm.set({ open: farm.ids[next] });
  }

  /** Move one of the other axes, and open what is there with all else as it is. */
  function stepAxis(step) {
    const [name] = farm.restAxes();
    if (!name) return;
    const column = farm.column(name);
    const code = column.values[row];
    const same = farm.meta.axes.filter((one) => one !== name).map((one) => farm.column(one));
    const count = column.levels.length;
    for (let i = 1; i <= count; i += 1) {
      const wanted = (code + step * i + count * i) % count;
      for (let other = 0; other < farm.rows; other += 1) {
        if (column.values[other] === wanted && same.every((one) => one.values[other] === one.values[row])) {
          if (farm.at(name) !== "*") farm.stepAt(name, step * i);
          farm.set({ open: farm.ids[other] });
          return;
        }
      }
    }
  }

  farm.showZoom = () => {
    const asked = farm.state.open ? farm.rowOf.get(farm.state.open) : undefined;
    if (asked === undefined) { if (dialog.open) dialog.close(); row = -1; return; }
    if (asked === row && dialog.open) return;
    if (row === -1) farm.focusRow(asked);
    row = asked;
    isActual = false;
    shift = { x: 0, y: 0 };
    drawZoom();
    if (!dialog.open) dialog.showModal();
    for (const image of dialog.querySelectorAll("#picture")) if (image.complete && image.naturalWidth) fit(image);
    dialog.focus();
  };

  function drawZoom() {
    const button = (text, label, act) => element("button", { type: "button", title: label, "aria-label": label, onclick: act }, text);
    const head = element("div", { class: "zoom-head" },
      element("span", { class: "where" }, farm.describe(row).replaceAll("\n", " · ")),
      button("‹", "Previous  (,)", () => follow(-1)), button("›", "Next  (.)", () => follow(1)),
      button("⇋", "Pick for comparing  (c)", () => farm.pick(row)),
      button("✕", "Close  (Esc)", close));
    const side = element("div", { class: "panel", id: "facts", tabindex: "-1" }, copyButtons(),
                         farm.voteBox ? farm.voteBox(row) : null, ...facts());
    dialog.replaceChildren(head, stage(), side);
  }

  /** Draw the open image again, because something about it changed. */
  farm.refreshZoom = (rows) => {
    if (row < 0 || !rows.includes(row)) return;
    const fresh = farm.voteBox?.(row);
    const old = dialog.querySelector(".votes");
    const isTyping = old?.contains(document.activeElement) && document.activeElement.matches("input, textarea");
    if (fresh && old && !isTyping) old.replaceWith(fresh);
  };

  dialog.tabIndex = -1;
  dialog.addEventListener("close", close);
  dialog.addEventListener("cancel", (event) => { event.preventDefault(); close(); });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      ArrowLeft: () => go(-1, 0), ArrowRight: () => go(1, 0), ArrowUp: () => go(0, -1), ArrowDown: () => go(0, 1),
      ",": () => follow(-1), ".": () => follow(1), "[": () => stepAxis(-1), "]": () => stepAxis(1),
      c: () => farm.pick(row), d: farm.toggleTheme,
    }[event.key];
    if (act) act();
    else if (!(farm.served && farm.voteByKey(event.key, row))) return;
    event.preventDefault();
  });
  new ResizeObserver(() => {
    const image = document.getElementById("picture");
    if (image?.naturalWidth) fit(image);
  }).observe(dialog);
})();
