"use strict";
/* What the page knows of an output: typed arrays, filled by the scripts in data/.

   Everything in here came from people's prompts, file names and error messages. It goes into the
   document as text (textContent, attributes, addresses), never as markup. */

const farm = {};

/** Called by the scripts in data/. */
const farmData = {};

(() => {
  const NONE = -1;

  /** One column: a code a row into levels, a number a row, a text a row, or a set of codes a row. */
  class Column {
    constructor(told, rows) {
      this.name = told.name;
      this.label = told.label;
      this.kind = told.kind;
      this.group = told.group;
      this.doc = told.doc;
      this.levels = told.levels;
      this.ranges = told.ranges;
      this.values = allocate(told.kind, rows);
      this.caches();
    }

    /** Forget what was derived from levels and values. */
    caches() {
      this.lower = null;
      this.divided = null;
      this.numeric = this.kind === "number" || this.kind === "time"
        || (this.kind === "level" && this.levels.length > 0
            && this.levels.every((level) => typeof level === "number"));
    }

    get isListed() {
      return this.kind === "level" || this.kind === "set";
    }

    /** What the images can be laid out by: the column itself, the ranges of what it measures, or
        the sets that occur in it; null if it is no axis. */
    get axis() {
      if (this.kind === "level") return this;
      if (this.kind !== "set" && !this.ranges) return null;
      this.divided ??= {
        name: this.name, label: this.label, group: this.group, doc: this.doc, kind: "level",
        ...(this.kind === "set" ? together(this) : places(this.ranges, this.values)),
      };
      return this.divided;
    }

    fill(start, count, given) {
      if (this.kind === "level" && !Array.isArray(given)) {
        this.values.fill(given, start, start + count);
        return;
      }
      for (let i = 0; i < count; i += 1) this.put(start + i, given[i]);
    }

    put(row, given) {
      const isNumber = this.kind === "number" || this.kind === "time";
      this.values[row] = isNumber && given === null ? NaN : given;
    }

    /** The value of a row as JSON has it; null for none. */
    value(row) {
      const held = this.values[row];
      switch (this.kind) {
        case "level": return held === NONE ? null : this.levels[held];
        case "set": return held.map((code) => this.levels[code]);
        case "number":
        case "time": return Number.isNaN(held) ? null : held;
        default: return held;
      }
    }

    /** The value of a row as a number; NaN where it is none. */
    number(row) {
      if (this.kind === "number" || this.kind === "time") return this.values[row];
      const value = this.value(row);
      return typeof value === "number" ? value : typeof value === "boolean" ? Number(value) : NaN;
    }

    /** The value of a row as people read it. */
    text(row) {
      return farm.show(this, this.value(row));
    }

    /** The texts of all levels, or of all rows, in lower case. */
    lowered() {
      if (this.lower === null) {
        const source = this.kind === "text" ? this.values : this.levels;
        this.lower = Array.from(source, (one) => (one === null ? "" : String(one).toLowerCase()));
      }
      return this.lower;
    }

    grow(rows) {
      if (rows <= this.values.length) return;
      const wider = allocate(this.kind, rows);
      if (Array.isArray(wider)) this.values.forEach((value, row) => { wider[row] = value; });
      else wider.set(this.values);
      this.values = wider;
    }

    /** Take the levels and ranges of a later state of the output; codes keep their meaning. */
    retell({ levels, ranges }) {
      this.ranges = ranges;
      if (!this.isListed) return;
      const place = new Map(levels.map((level, code) => [farm.levelKey(level), code]));
      const map = this.levels.map((level) => place.get(farm.levelKey(level)) ?? NONE);
      this.levels = levels;
      if (this.kind === "set") this.values = this.values.map((codes) => codes.map((c) => map[c]));
      else this.values = this.values.map((code) => (code === NONE ? NONE : map[code]));
      this.caches();
    }
  }

  /** Which of its ranges each number of a column is in: the last one that begins at it or below. */
  function places({ labels, edges }, numbers) {
    const starts = Float32Array.from(edges); // as the numbers were measured, and as sheets compare
    const found = new Int32Array(numbers.length);
    for (let row = 0; row < numbers.length; row += 1) {
      const number = Math.fround(numbers[row]);
      let place = Number.isNaN(number) ? NONE : labels.length - 1;
      while (place > 0 && number < starts[place]) place -= 1;
      found[row] = place;
    }
    return { levels: labels, values: found };
  }

  /** Which set each row has, as sheets write them: the words of a set are one value. */
  function together({ levels, values }) {
    const texts = values.map((codes) => codes.map((code) => levels[code]).join(", "));
    const found = [...new Set(texts)].filter(Boolean).sort();
    const placeOf = new Map(found.map((text, place) => [text, place]));
    return { levels: found, values: Int32Array.from(texts, (text) => placeOf.get(text) ?? NONE) };
  }

  function allocate(kind, rows) {
    switch (kind) {
      case "level": return new Int32Array(rows).fill(NONE);
      case "number":
      case "time": return new Float64Array(rows).fill(NaN);
      case "set": return Array.from({ length: rows }, () => []);
      default: return new Array(rows).fill(null);
    }
  }

  /** A level as text that tells it from all others of its column. */
  farm.levelKey = (level) => (level === null ? "\u2205" : String(level));

  /** A value as people read it. */
  farm.show = (column, value) => {
    if (value === null || value === undefined) return "none";
    if (Array.isArray(value)) return value.length ? value.join(", ") : "none";
    if (column.kind === "time") {
      return new Date(value).toISOString().replace("T", " ").slice(0, 19);
    }
    switch (typeof value) {
      case "number": return Number.isInteger(value) ? String(value) : String(+value.toPrecision(6));
      case "boolean": return value ? "yes" : "no";
      default: return value.trim() === "" ? "(empty)" : value;
    }
  };

  farm.count = (number, noun) =>
    `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

  // --- loading ---------------------------------------------------------------------------------

  const waiting = new Map();

  farmData.meta = (told) => { farm.meta = told; };

  farmData.rows = (revision, number, text) => {
    if (revision !== farm.meta.revision) { location.reload(); return; }
    const given = JSON.parse(text);
    const start = number * farm.meta.rowsPerChunk;
    const count = given.id.length;
    for (let i = 0; i < count; i += 1) farm.setId(start + i, given.id[i]);
    for (const column of farm.columns) column.fill(start, count, given[column.name]);
  };

  farmData.details = (revision, number, text) => {
    waiting.get(number)?.(JSON.parse(text));
    waiting.delete(number);
  };

  farm.setId = (row, id) => {
    farm.ids[row] = id;
    farm.rowOf.set(id, row);
  };

  farm.column = (name) => farm.byName.get(name);

  /** A column as an axis; null if there is none of that name, or it is no axis. */
  farm.axis = (name) => farm.column(name)?.axis ?? null;

  function script(address) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = address;
      element.onload = () => { element.remove(); resolve(); };
      element.onerror = () => { element.remove(); reject(new Error(`cannot load ${address}`)); };
      document.head.append(element);
    });
  }

  /** Load everything that the grid needs; `tell` hears how much of it is there, from 0 to 1. */
  farm.load = async (tell) => {
    await script("data/meta.js");
    const { meta } = farm;
    farm.rows = meta.rows;
    farm.ids = new Array(meta.rows).fill("");
    farm.rowOf = new Map();
    farm.columns = meta.columns.map((told) => new Column(told, meta.rows));
    farm.byName = new Map(farm.columns.map((column) => [column.name, column]));
    const chunks = Math.ceil(meta.rows / meta.rowsPerChunk);
    let done = 0;
    await Promise.all(Array.from({ length: chunks }, async (_, number) => {
      await script(`data/rows-${number}.js?${meta.revision}`);
      done += 1;
      tell(done / chunks);
    }));
  };

  const details = new Map();

  /** The rest of what is known of a row: task_id, image_sha256, the A1111 text, what was asked for. */
  farm.details = (row) => {
    const { rowsPerDetail, revision } = farm.meta;
    const number = Math.floor(row / rowsPerDetail);
    if (!details.has(number)) {
      details.set(number, new Promise((resolve, reject) => {
        waiting.set(number, resolve);
        script(`data/details-${number}.js?${revision}`).catch((error) => {
          details.delete(number);
          reject(error);
        });
      }));
    }
    return details.get(number).then((list) => list[row % rowsPerDetail]);
  };

  /** Take what changed since this page was loaded; returns false if it has to be loaded anew. */
  farm.applyChanges = (told) => {
    const { meta } = told;
    const same = meta.columns.length === farm.columns.length
      && meta.columns.every((one, place) => one.name === farm.columns[place].name
                                           && one.kind === farm.columns[place].kind);
    if (!same) return false;
    meta.columns.forEach((one, place) => {
      farm.columns[place].grow(meta.rows);
      farm.columns[place].retell(one);
    });
    farm.meta = meta;
    farm.rows = meta.rows;
    told.rows.forEach((row, i) => {
      farm.setId(row, told.values.id[i]);
      details.delete(Math.floor(row / meta.rowsPerDetail));
    });
    for (const column of farm.columns) {
      const given = told.values[column.name];
      const isOne = column.kind === "level" && !Array.isArray(given);
      told.rows.forEach((row, i) => column.put(row, isOne ? given : given[i]));
      column.caches();
    }
    return true;
  };

  // --- addresses -------------------------------------------------------------------------------

  const encoded = (path) => path.split("/").map(encodeURIComponent).join("/");

  /** Where the image of a row is; null if it has none. */
  farm.imageAddress = (row) => {
    const path = farm.column("image_path")?.value(row);
    return path ? farm.meta.root + encoded(path) : null;
  };

  /** Where the picture is that stands for a row in the grid: the image itself if that is small. */
  farm.smallAddress = (row) => {
    const path = farm.column("image_path")?.value(row);
    if (!path) return null;
    const edge = Math.max(farm.column("width")?.number(row) || 0,
                          farm.column("height")?.number(row) || 0);
    if (edge <= farm.meta.thumbnailSize) return farm.meta.root + encoded(path);
    const inside = path.replace(/^images\//, "");
    return `${farm.meta.root}thumbnails/${farm.meta.thumbnailSize}/${encoded(inside)}.webp`;
  };

  farm.status = (row) => farm.column("status").value(row);

  /** Why a row has no picture: a headline and a reason; and a word and a sign where room is short. */
  farm.trouble = (row) => {
    if (farm.status(row) === "missing") return { headline: "to do", word: "to do", sign: "…", reason: "" };
    const kind = farm.column("error_kind")?.value(row) || "failed";
    return {
      headline: kind.replaceAll("_", " "), word: "failed", sign: "!",
      reason: farm.column("error_message")?.value(row) || "",
    };
  };

  // --- the document ----------------------------------------------------------------------------

  /** Make an element. What is given as children is text unless it is an element. */
  farm.element = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "class") element.className = value;
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) {
        element.setAttribute(name, String(value));
      }
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  farm.say = (text) => {
    const place = document.getElementById("said");
    place.textContent = text;
    place.classList.add("shown");
    clearTimeout(farm.say.timer);
    farm.say.timer = setTimeout(() => place.classList.remove("shown"), Math.max(2600, 50 * text.length));
  };

  farm.copy = async (text, what) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // A page on plain http has no clipboard; an old way still works there.
      const area = farm.element("textarea", { class: "offstage" });
      area.value = text;
      (document.querySelector("dialog[open]") || document.body).append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    farm.say(`${what} copied`);
  };
})();
