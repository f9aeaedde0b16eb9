"use strict";
/* Which rows are shown, in which order, in which cell. Pure: reads columns and the state. */

(() => {
  const SEARCHED = ["prompt", "negative_prompt", "notes", "tags", "error_message"];

  /** The words of a search: each must occur, those with a minus must not; "..." is one word. */
  farm.searchWords = (text) => {
    const words = [];
    for (const [, minus, quoted, bare] of text.matchAll(/(-?)(?:"([^"]*)"?|(\S+))/g)) {
      const word = (quoted ?? bare).toLowerCase();
      if (word) words.push({ word, not: minus === "-" });
    }
    return words;
  };

  function searched() {
    return farm.columns.filter((column) => SEARCHED.includes(column.name)
                                           || column.group === "variable");
  }

  /** Mark the rows in which a word occurs. */
  function occurrences(word) {
    const found = new Uint8Array(farm.rows);
    for (const column of searched()) {
      const texts = column.lowered();
      if (column.kind === "text") {
        for (let row = 0; row < farm.rows; row += 1) if (texts[row].includes(word)) found[row] = 1;
      } else if (column.kind === "set") {
        const hits = texts.map((text) => text.includes(word));
        if (!hits.includes(true)) continue;
        column.values.forEach((codes, row) => { if (codes.some((c) => hits[c])) found[row] = 1; });
      } else if (column.kind === "level") {
        const hits = texts.map((text) => text.includes(word));
        if (!hits.includes(true)) continue;
        const { values } = column;
        for (let row = 0; row < farm.rows; row += 1) if (hits[values[row]]) found[row] = 1;
      }
    }
    return found;
  }

  /** Clear `kept` where a filter does not hold. */
  function applyFilter(kept, column, filter) {
    if (filter.levels && column.isListed) {
      const wanted = column.levels.map((level) => filter.levels.has(farm.levelKey(level)));
      const none = filter.levels.has(farm.levelKey(null));
      for (let row = 0; row < farm.rows; row += 1) {
        const held = column.values[row];
        const holds = column.kind === "set"
          ? (held.length ? held.some((code) => wanted[code]) : none)
          : (held < 0 ? none : wanted[held]);
        if (!holds) kept[row] = 0;
      }
    }
    if (filter.min !== undefined || filter.max !== undefined) {
      const [low, high] = [filter.min ?? -Infinity, filter.max ?? Infinity];
      for (let row = 0; row < farm.rows; row += 1) {
        const number = column.number(row);
        if (!(number >= low && number <= high)) kept[row] = 0;
      }
    }
    if (filter.has) {
      const word = filter.has.toLowerCase();
      for (let row = 0; row < farm.rows; row += 1) {
        if (kept[row] && !column.text(row).toLowerCase().includes(word)) kept[row] = 0;
      }
    }
  }

  /** Mark the rows that search and filters keep; `without` names a column whose filter is left out. */
  farm.kept = (without = null) => {
    const { filters, q } = farm.state;
    const kept = new Uint8Array(farm.rows).fill(1);
    for (const [name, filter] of Object.entries(filters)) {
      if (name !== without) applyFilter(kept, farm.column(name), filter);
    }
    for (const { word, not } of farm.searchWords(q)) {
      const found = occurrences(word);
      for (let row = 0; row < farm.rows; row += 1) if (found[row] === Number(not)) kept[row] = 0;
    }
    return kept;
  };

  /** Rank the rows by the sort column: smaller comes first; what has no value comes last. */
  function ranks(sort) {
    const column = farm.column(sort.replace(/^-/, ""));
    const rank = new Float64Array(farm.rows);
    const sign = sort.startsWith("-") ? -1 : 1;
    if (column.numeric) {
      for (let row = 0; row < farm.rows; row += 1) rank[row] = column.number(row) * sign;
    } else if (column.kind === "level") {
      // The levels of an axis stand in the job's order, and are sorted in that.
      for (let row = 0; row < farm.rows; row += 1) {
        rank[row] = column.values[row] < 0 ? NaN : column.values[row] * sign;
      }
    } else {
      const texts = Array.from({ length: farm.rows }, (_, row) => column.text(row));
      const order = [...new Set(texts)].sort();
      const place = new Map(order.map((text, at) => [text, at]));
      texts.forEach((text, row) => { rank[row] = place.get(text) * sign; });
    }
    return rank;
  }

  /** The rows to show, in order: an array of row numbers. */
  farm.chosenRows = () => {
    const kept = farm.kept();
    for (const name of farm.restAxes()) {
      const at = farm.at(name);
      if (at === "*") continue;
      const { levels, values } = farm.column(name);
      const code = levels.findIndex((level) => farm.levelKey(level) === at);
      for (let row = 0; row < farm.rows; row += 1) if (values[row] !== code) kept[row] = 0;
    }
    let count = 0;
    for (let row = 0; row < farm.rows; row += 1) count += kept[row];
    const rows = new Int32Array(count);
    for (let row = 0, at = 0; row < farm.rows; row += 1) if (kept[row]) { rows[at] = row; at += 1; }
    if (farm.state.sort) {
      const rank = ranks(farm.state.sort);
      rows.sort((a, b) => {
        const [p, q] = [rank[a], rank[b]];
        if (p < q) return -1;
        if (p > q) return 1;
        return Number.isNaN(p) - Number.isNaN(q) || a - b;
      });
    }
    return rows;
  };

  /** The pairs of levels along one direction that have rows: super axis first, then axis. */
  function bands(rows, outer, inner) {
    const size = inner ? inner.levels.length + 1 : 1;
    const code = (column, row) => {
      if (!column) return 0;
      return column.values[row] < 0 ? column.levels.length : column.values[row];
    };
    const keyOf = new Float64Array(farm.rows);
    const seen = new Set();
    for (const row of rows) {
      const key = code(outer, row) * size + code(inner, row);
      keyOf[row] = key;
      seen.add(key);
    }
    const keys = [...seen].sort((a, b) => a - b);
    const placeOf = new Map(keys.map((key, place) => [key, place]));
    const list = keys.map((key) => {
      const [out, inn] = [Math.floor(key / size), key % size];
      return {
        outer: outer ? outer.levels[out] ?? null : undefined,
        inner: inner ? inner.levels[inn] ?? null : undefined,
        group: out,
      };
    });
    return { list, place: (row) => placeOf.get(keyOf[row]) };
  }

  /** Lay rows out: columns, lines, and the rows of each cell in order. */
  farm.arrange = (rows) => {
    const [x, y, sx, sy] = farm.AXES.map((axis) => farm.axis(farm.state[axis]));
    if (!x && !y && !sx && !sy) return { isFlow: true, rows };
    const across = bands(rows, sx, x);
    const down = bands(rows, sy, y);
    const cells = new Map();
    const width = across.list.length;
    for (const row of rows) {
      const key = down.place(row) * width + across.place(row);
      const cell = cells.get(key);
      if (cell) cell.push(row);
      else cells.set(key, [row]);
    }
    return { isFlow: false, rows, x, y, sx, sy, across: across.list, down: down.list, cells,
             cell: (line, place) => cells.get(line * width + place) };
  };

  /** How often each level of a column occurs among the rows that everything else keeps. */
  farm.levelCounts = (column) => {
    const kept = farm.kept(column.name);
    const counts = new Int32Array(column.levels.length + 1);
    for (let row = 0; row < farm.rows; row += 1) {
      if (!kept[row]) continue;
      const held = column.values[row];
      if (column.kind !== "set") counts[held < 0 ? column.levels.length : held] += 1;
      else if (!held.length) counts[column.levels.length] += 1;
      else for (const code of held) counts[code] += 1;
    }
    return counts;
  };

  /** The least and greatest number of a column among some rows; null if there is none. */
  farm.extent = (column, rows) => {
    let [low, high] = [Infinity, -Infinity];
    for (const row of rows) {
      const number = column.number(row);
      if (number < low) low = number;
      if (number > high) high = number;
    }
    return low <= high ? { low, high } : null;
  };

  // Viridis, by Nathaniel Smith and Stefan van der Walt (CC0), at eight places.
  const VIRIDIS = [[68, 1, 84], [70, 50, 127], [54, 92, 141], [39, 127, 142],
                   [31, 161, 135], [74, 194, 109], [159, 218, 58], [253, 231, 37]];

  /** The colour at a place between 0 and 1. */
  farm.colour = (place) => {
    const at = Math.min(1, Math.max(0, place)) * (VIRIDIS.length - 1);
    const [low, part] = [Math.floor(at), at % 1];
    const high = Math.min(low + 1, VIRIDIS.length - 1);
    const mix = VIRIDIS[low].map((one, i) => Math.round(one + (VIRIDIS[high][i] - one) * part));
    return `rgb(${mix.join(" ")})`;
  };
})();
