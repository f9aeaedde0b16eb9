"use strict";
/* What is being looked at, kept in the address: a link, a bookmark or a reload shows the same.

   #x=guidance_scale&y=prompt&at.seed=3&f.sampler=ddim&min.score=0.5&q=sword&open=3f2a... */

(() => {
  const AXES = ["x", "y", "sx", "sy"];
  const listeners = [];

  farm.AXES = AXES;

  /** What the page shows when the address says nothing. */
  function initial() {
    const { meta } = farm;
    return {
      x: meta.x || "", y: meta.y || "", sx: "", sy: "",
      at: {}, // axis -> level key, or "*" for all
      filters: {}, // column -> { levels: Set } | { min, max } | { has }
      q: "", sort: "", color: "",
      size: 0, // pixels of a cell; 0 for what fits
      open: "", compare: [], against: "",
    };
  }

  const known = (name) => (farm.column(name) ? name : "");

  function read() {
    const state = initial();
    const given = new URLSearchParams(location.hash.slice(1));
    for (const axis of AXES) {
      if (given.has(axis)) state[axis] = farm.axis(given.get(axis)) ? given.get(axis) : "";
    }
    const filter = (name) => (state.filters[name] ??= {});
    for (const [key, value] of given) {
      const dot = key.indexOf(".");
      const [verb, name] = [key.slice(0, dot), key.slice(dot + 1)];
      if (dot < 0 || !farm.column(name)) continue;
      if (verb === "at") state.at[name] = value;
      if (verb === "f") (filter(name).levels ??= new Set()).add(value);
      if (verb === "has") filter(name).has = value;
      if (verb === "min" && value !== "" && !Number.isNaN(+value)) filter(name).min = +value;
      if (verb === "max" && value !== "" && !Number.isNaN(+value)) filter(name).max = +value;
    }
    state.q = given.get("q") || "";
    const sort = given.get("sort") || "";
    if (known(sort.replace(/^-/, ""))) state.sort = sort;
    state.color = known(given.get("color") || "");
    if (+given.get("size") > 0) state.size = Math.min(512, Math.max(24, +given.get("size")));
    state.open = farm.rowOf.has(given.get("open")) ? given.get("open") : "";
    state.compare = given.getAll("compare").filter((id) => farm.rowOf.has(id)).slice(0, 2);
    state.against = given.get("against") || "";
    return state;
  }

  function written(state) {
    const start = initial();
    const out = new URLSearchParams();
    for (const axis of AXES) if (state[axis] !== start[axis]) out.set(axis, state[axis]);
    for (const [name, value] of Object.entries(state.at)) out.set(`at.${name}`, value);
    for (const [name, filter] of Object.entries(state.filters)) {
      for (const level of filter.levels || []) out.append(`f.${name}`, level);
      for (const key of ["has", "min", "max"]) {
        if (filter[key] !== undefined && filter[key] !== "") out.set(`${key}.${name}`, filter[key]);
      }
    }
    for (const key of ["q", "sort", "color", "open", "against"]) {
      if (state[key]) out.set(key, state[key]);
    }
    if (state.size !== start.size) out.set("size", state.size);
    for (const id of state.compare) out.append("compare", id);
    return `#${out}`;
  }

  farm.onChange = (listener) => listeners.push(listener);

  farm.changed = (what) => { for (const listener of listeners) listener(what); };

  /** Change what is shown. With `step`, the browser's back button returns to before. */
  farm.set = (change, { step = false } = {}) => {
    Object.assign(farm.state, change);
    const address = written(farm.state);
    if (address !== (location.hash || "#")) {
      history[step ? "pushState" : "replaceState"](null, "", address);
    }
    farm.changed(new Set(Object.keys(change)));
  };

  farm.startState = () => {
    farm.state = read();
    window.addEventListener("popstate", () => {
      farm.state = read();
      farm.changed(new Set(Object.keys(farm.state)));
    });
  };

  /** Everything as it was when the page was opened without an address. */
  farm.reset = () => farm.set(initial());

  const WIDEST_TABLE = 1 << 22;

  /** The names in `order` that tell rows apart which `given` and the names before them do not. */
  function independent(given, order) {
    let groups = new Int32Array(farm.rows); // rows that agree so far have one number
    let count = 1;
    const refine = ({ values, levels }) => {
      const size = levels.length + 1;
      const isNarrow = count * size <= WIDEST_TABLE;
      const known = isNarrow ? new Int32Array(count * size) : new Map(); // the new number, plus one
      const finer = new Int32Array(farm.rows);
      let found = 0;
      for (let row = 0; row < farm.rows; row += 1) {
        const key = groups[row] * size + values[row] + 1;
        let number = isNarrow ? known[key] : known.get(key);
        if (!number) {
          found += 1;
          number = found;
          if (isNarrow) known[key] = number;
          else known.set(key, number);
        }
        finer[row] = number - 1;
      }
      [groups, count] = [finer, found];
    };
    const follows = ({ values }) => {
      const first = new Int32Array(count).fill(-2); // no code is that
      for (let row = 0; row < farm.rows; row += 1) {
        const group = groups[row];
        if (first[group] === -2) first[group] = values[row];
        else if (first[group] !== values[row]) return false;
      }
      return true;
    };
    given.forEach((name) => refine(farm.axis(name)));
    return order.filter((name) => {
      const axis = farm.axis(name);
      if (follows(axis)) return false;
      refine(axis);
      return true;
    });
  }

  /** The columns across and down. */
  farm.chosenAxes = () => [...new Set(AXES.map((axis) => farm.state[axis]).filter(Boolean))];

  let rest = { meta: null, key: "", names: [] };

  /** The axes that are left beside those across and down: each stands at one of its values, or at all.
      What follows from the chosen ones, as its words do from a prompt, is none. */
  farm.restAxes = () => {
    const used = farm.chosenAxes();
    const key = used.join("\n");
    if (rest.meta !== farm.meta || rest.key !== key) {
      const order = farm.meta.axes.filter((name) => !used.includes(name));
      rest = { meta: farm.meta, key, names: independent(used, order) };
    }
    return rest.names;
  };

  /** Whether a column says what came out, as brightness or an error, and not what was asked for. Its
      values go across all settings: at one of each, hardly one of them would have an image. */
  farm.isOutcome = (name) => ["fact", "choice"].includes(farm.column(name).group)
    && !farm.meta.axes.includes(name);

  /** Where a rest axis stands: a level key, or "*". Seeds stand beside each other. */
  farm.at = (name) => {
    const column = farm.column(name);
    const asked = farm.state.at[name];
    const keys = column.levels.map(farm.levelKey);
    if (asked === "*" || keys.includes(asked)) return asked;
    const used = farm.chosenAxes();
    const isOpen = !used.length || used.some(farm.isOutcome);
    const all = isOpen || name === "seed" || !keys.length || column.values.includes(-1);
    return all ? "*" : keys[0];
  };
})();
