"use strict";
/* The grid: only what is in view (and a little around it) is in the document.

   Cells stand at computed places inside one wide and tall box; labels are sticky strips of the same
   box, so they scroll with it by themselves. */

(() => {
  const GAP = 4;
  const GROUP_GAP = 18;
  const BAND = 26;
  const CAPTION = 36;
  const TILE = 40; // nobody can judge a smaller picture; more in a cell are counted
  const ROOMY = { wide: 72, high: 44 }; // a tile that has room for a sentence
  const WORDY = { wide: 34, high: 18 }; // and one that has room for a word
  const LINE = 14; // pixels of a line of a reason
  const MOST_LOADING = 12; // pictures at once
  const NAME = 17; // and of the name of an axis
  const MARGIN = 12;
  const SCROLL_BAR = 20;
  const MOST_PIXELS = 15_000_000; // Firefox lays out no box larger than 17.8 million pixels

  const { element } = farm;
  let layout = null;
  let shape = null;
  let scale = null;
  let focus = { line: 0, place: 0 };
  const shown = new Map(); // key -> element
  const labels = new Map();

  const $ = (id) => document.getElementById(id);
  const isNarrow = () => $("grid").clientWidth < 620;

  // --- geometry --------------------------------------------------------------------------------

  /** Where bands begin, with a gap before every new group; and where the groups are. */
  function offsets(list, step, grouped, head) {
    const starts = new Float64Array(list.length + 1);
    const groups = [];
    let at = 0;
    list.forEach((band, place) => {
      if (grouped && (place === 0 || band.group !== list[place - 1].group)) {
        if (place) { at += GROUP_GAP; groups.at(-1).end = at - GROUP_GAP; }
        groups.push({ label: band.outer, start: at, end: 0 });
        at += head;
      }
      starts[place] = at;
      at += step;
    });
    starts[list.length] = at;
    if (groups.length) groups.at(-1).end = at;
    return { starts, groups, length: at };
  }

  function widestLabel(column) {
    let most = 0;
    for (const level of column.levels.slice(0, 500)) {
      most = Math.max(most, farm.show(column, level).length);
    }
    return most;
  }

  /** The room that the names of the axes take in the corner. */
  function cornerWidth() {
    const names = [layout.x, layout.y].filter(Boolean).map((axis) => axis.label.length);
    return 34 + Math.max(...names) * 5.9;
  }

  /** The longest side of a picture in the grid. */
  const naturalEdge = () => Math.min(256, farm.column("width")?.number(layout.rows[0]) || 128);

  /** The width at which columns fill the room, no larger than the pictures are. */
  function fitting(room, columns, perCell) {
    const natural = naturalEdge() * perCell;
    const least = isNarrow() ? 88 : 112;
    return Math.max(least, Math.min(natural, 320, Math.floor(room / Math.max(1, columns)) - GAP));
  }

  /** Height by width of the middle one of all pictures that are shown; other shapes fit inside. */
  function proportion() {
    const [height, width] = [farm.column("height"), farm.column("width")];
    const shapes = Float64Array.from(layout.rows, (row) =>
      height?.number(row) / width?.number(row)).filter((shape) => shape > 0).sort();
    return Math.min(2.5, Math.max(0.4, shapes[shapes.length >> 1] ?? 1));
  }

  /** Height of a line of a label, as the style has it. */
  const labelLine = () => (matchMedia("(max-width: 720px)").matches ? 13 : 15);

  function mostPerCell() {
    let most = 1;
    for (const rows of layout.cells.values()) most = Math.max(most, rows.length);
    return most;
  }

  function measure() {
    const box = $("grid");
    let { size } = farm.state;
    if (layout.isFlow) {
      const room = box.clientWidth - 2 * 12 + GAP;
      // A phone has no room to give away; elsewhere pictures are shown as they are.
      size ||= isNarrow() ? Math.floor(room / Math.max(1, Math.floor(room / (96 + GAP)))) - GAP
        : Math.min(fitting(box.clientWidth, 1, 1), 176);
      const [step, tall] = [size + GAP, Math.round(size * proportion())];
      const caption = size >= 80 && farm.restAxes().length ? CAPTION : 0;
      const per = Math.max(1, Math.floor(room / step));
      const lines = Math.ceil(layout.rows.length / per);
      return { isFlow: true, size, tall, step, per, lines, caption, lineStep: tall + caption + GAP,
               tiles: { per: 1, lines: 1 }, tile: { wide: size, high: tall }, width: per * step, height: lines * (tall + caption + GAP),
               side: 0, head: 0 };
    }
    const longest = Math.max(layout.across.length, layout.down.length);
    const narrow = isNarrow();
    const beside = () => Math.max(24 + widestLabel(layout.y) * 6.4, cornerWidth());
    const side = layout.y
      ? Math.max(narrow ? 64 : 84, Math.min(narrow ? 92 : 230, beside()))
      : layout.sy ? (narrow ? 64 : 96) : MARGIN;
    const most = mostPerCell();
    const square = Math.ceil(Math.sqrt(most));
    const groups = new Set(layout.across.map((band) => band.group)).size;
    const room = box.clientWidth - side - 32 - GROUP_GAP * (groups - 1);
    size ||= fitting(room, layout.across.length, square);
    size = Math.max(16, Math.min(size, Math.floor(MOST_PIXELS / Math.max(1, longest)) - GAP));
    const per = Math.min(square, Math.max(1, Math.floor(size / TILE)));
    const tiles = { per, lines: Math.min(per, Math.ceil(most / per)) };
    const tall = Math.max(16, Math.round((size * tiles.lines * proportion()) / tiles.per));
    const step = size + GAP;
    const across = offsets(layout.across, step, Boolean(layout.sx), 0);
    const down = offsets(layout.down, tall + GAP, Boolean(layout.sy), BAND);
    const perLine = Math.max(4, Math.floor((size - 8) / 6.2));
    const lines = layout.x ? Math.min(5, Math.ceil(widestLabel(layout.x) / perLine)) : 0;
    const named = layout.x && !layout.y ? NAME : 0; // above the labels, as there is nothing beside them
    const head = (layout.sx ? BAND : 0) + named
      + (layout.x ? Math.max(34 - named, 10 + labelLine() * lines) : layout.y ? 20 : 0);
    const tile = { wide: size / tiles.per, high: tall / tiles.lines };
    return { isFlow: false, size, tall, tiles, tile, step, across, down, side, head, lines: layout.down.length,
             width: across.length, height: down.length };
  }

  /** The first band that ends after a pixel. */
  function bandAt(starts, pixel) {
    let [low, high] = [0, starts.length - 2];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (starts[middle + 1] <= pixel) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // --- loading pictures ------------------------------------------------------------------------

  let queue = []; // pictures without an address yet: [image, address]
  let isFed = true; // or will be in the next frame
  const loading = new Set();

  /** Give a picture its address when it is its turn. A browser that is asked for hundreds at once
      does nothing else for a while, not even paint. */
  function load(image, address) {
    queue.push([image, address]);
    if (isFed) requestAnimationFrame(feed); // when all of this draw are in the document
    isFed = false;
  }

  function feed() {
    isFed = true;
    let next = 0;
    for (; next < queue.length && loading.size < MOST_LOADING; next += 1) {
      const [image, address] = queue[next];
      if (!image.isConnected) continue;
      loading.add(image);
      image.src = address;
    }
    queue = queue.slice(next);
  }

  function loaded(image) {
    if (loading.delete(image)) feed();
  }

  /** Take a part out of the document; what it has not loaded need not be loaded any more. */
  function discard(node) {
    node.remove();
    for (const image of node.querySelectorAll("img")) {
      if (loading.delete(image)) image.src = "data:,";
    }
  }

  // --- one cell --------------------------------------------------------------------------------

  function picture(row) {
    const image = element("img", { alt: "", decoding: "async", draggable: "false" });
    const small = farm.smallAddress(row);
    const full = farm.imageAddress(row);
    image.addEventListener("load", () => loaded(image));
    image.addEventListener("error", () => {
      if (image.getAttribute("src") === small && full !== small) { image.src = full; return; }
      loaded(image);
      if (!image.isConnected) return;
      const place = image.closest(".tile");
      place.classList.add("missing");
      const path = farm.column("image_path").value(row);
      place.title += `\nthe image is gone: ${path}`;
      place.replaceChildren(reason({ headline: "the image is gone", word: "gone", sign: "?", reason: path }));
    });
    load(image, small);
    return image;
  }

  /** Why there is no picture, in as many words as a tile has room for; its title has all of them. */
  function reason({ headline, word, sign, reason: text }) {
    const { wide, high } = shape.tile;
    if (wide < WORDY.wide || high < WORDY.high) return element("b", { class: "reason sign" }, sign);
    if (wide < ROOMY.wide || high < ROOMY.high) return element("b", { class: "reason sign" }, word);
    const box = element("span", { class: "reason" }, element("b", {}, headline));
    const lines = Math.floor((high * 0.94 - 10) / LINE) - Math.ceil((headline.length * 6.6) / (wide - 16));
    if (text && lines > 0) {
      const sentence = element("span", {}, text);
      sentence.style.webkitLineClamp = lines;
      box.append(sentence);
    }
    return box;
  }

  /** One image, or why there is none; `hidden` more are in the cell that has no room for them. */
  function tile(row, hidden = 0) {
    const status = farm.status(row);
    const place = element("div", { class: `tile ${status}`, "data-row": row });
    if (status === "rendered") place.append(picture(row));
    else place.append(reason(farm.trouble(row)));
    if (scale) {
      const number = scale.column.number(row);
      if (!Number.isNaN(number)) {
        const strip = element("i", { class: "score" });
        strip.style.background = farm.colour(scale.place(number));
        place.append(strip);
      }
    }
    const marks = farm.marks ? farm.marks(row) : [];
    if (marks.length) place.append(element("span", { class: "marks" }, ...marks));
    if (farm.state.compare.includes(farm.ids[row])) place.classList.add("picked");
    if (hidden) place.append(element("span", { class: "hidden" }, `+${hidden}`));
    place.dataset.hidden = hidden;
    place.title = farm.describe(row);
    return place;
  }

  /** A row in words: what tells it from its neighbours. */
  farm.describe = (row) => {
    const facts = farm.meta.axes.map((name) => {
      const column = farm.column(name);
      return `${column.label}: ${column.text(row)}`;
    });
    if (scale) facts.push(`${scale.column.label}: ${scale.column.text(row)}`);
    const { headline, reason: text } = farm.status(row) === "rendered"
      ? { headline: "", reason: "" } : farm.trouble(row);
    if (headline) facts.push(text ? `${headline}: ${text}` : headline);
    return facts.join("\n");
  };

  function cell(rows, key, label) {
    const { per, lines } = shape.tiles;
    const room = per * lines;
    const some = rows.length > room ? rows.slice(0, room - 1) : rows;
    const box = element("div", {
      class: per > 1 ? "cell many" : "cell", role: "gridcell", tabindex: "-1",
      "data-key": key, "aria-label": label,
    });
    box.style.width = `${shape.size}px`;
    box.style.height = `${shape.tall}px`;
    box.style.gridTemplate = `repeat(${lines}, minmax(0, 1fr)) / repeat(${per}, minmax(0, 1fr))`;
    if (room === 1) box.append(tile(rows[0], rows.length - 1));
    else box.append(...some.map((row) => tile(row)));
    if (room > 1 && some.length < rows.length) {
      box.append(element("div", { class: "tile more", "data-row": rows[some.length] },
                         `+${rows.length - some.length}`));
    }
    return box;
  }

  // --- what is in view -------------------------------------------------------------------------

  function put(map, parent, wanted, make) {
    for (const [key, node] of map) {
      if (wanted.has(key)) continue;
      discard(node);
      map.delete(key);
    }
    const fresh = document.createDocumentFragment();
    for (const [key, what] of wanted) {
      if (map.has(key)) continue;
      const node = make(what);
      map.set(key, node);
      (what.parent || fresh).append(node);
    }
    parent.append(fresh);
  }

  function draw() {
    if (!shape) return;
    const box = $("grid");
    const [left, top] = [box.scrollLeft - shape.side, box.scrollTop - shape.head];
    const [wide, high] = [box.clientWidth, box.clientHeight];
    const around = Math.min(600, Math.max(wide, high) / 2);
    if (shape.isFlow) drawFlow(top - around, top + high + around);
    else drawGrid(left - around, left + wide + around, top - around, top + high + around);
    showFocus();
  }

  /** A text with no more than a line below a picture has room for, so that it hides no other. */
  function shortened(text) {
    const most = Math.max(12, Math.floor(shape.size / 6.4) - 3);
    return text.length > most ? `${text.slice(0, most).trimEnd()}…` : text;
  }

  function drawFlow(top, bottom) {
    const first = Math.max(0, Math.floor(top / shape.lineStep));
    const last = Math.min(shape.lines - 1, Math.floor(bottom / shape.lineStep));
    const wanted = new Map();
    for (let line = first; line <= last; line += 1) {
      for (let place = 0; place < shape.per; place += 1) {
        const at = line * shape.per + place;
        if (at >= layout.rows.length) break;
        wanted.set(at, { line, place, at, row: layout.rows[at] });
      }
    }
    put(shown, $("cells"), wanted, ({ line, place, at, row }) => {
      const node = cell([row], at, farm.describe(row));
      move(node, place * shape.step, line * shape.lineStep);
      if (shape.caption) {
        node.append(element("span", { class: "caption" }, farm.restAxes().map(
          (name) => shortened(farm.column(name).text(row))).join(" · ")));
      }
      return node;
    });
  }

  function drawGrid(left, right, top, bottom) {
    const { across, down } = shape;
    if (!layout.across.length) { put(shown, $("cells"), new Map()); return; }
    const [first, last] = [bandAt(across.starts, left), bandAt(across.starts, right)];
    const [upper, lower] = [bandAt(down.starts, top), bandAt(down.starts, bottom)];
    const wanted = new Map();
    for (let line = upper; line <= lower; line += 1) {
      for (let place = first; place <= last; place += 1) {
        const rows = layout.cell(line, place);
        if (rows) wanted.set(line * layout.across.length + place, { line, place, rows });
      }
    }
    put(shown, $("cells"), wanted, ({ line, place, rows }) => {
      const node = cell(rows, line * layout.across.length + place, cellLabel(line, place));
      move(node, across.starts[place], down.starts[line]);
      return node;
    });
    const names = new Map();
    const [heads, sides] = [$("heads"), $("sides")];
    if (layout.x) {
      for (let place = first; place <= last; place += 1) {
        names.set(`x${place}`, { parent: heads, kind: "head", column: layout.x,
          value: layout.across[place].inner, left: across.starts[place], width: shape.size });
      }
    }
    if (layout.y) {
      for (let line = upper; line <= lower; line += 1) {
        names.set(`y${line}`, { parent: sides, kind: "side", column: layout.y,
          value: layout.down[line].inner, top: down.starts[line], height: shape.tall });
      }
    }
    across.groups.forEach((group, i) => names.set(`sx${i}`, { parent: heads, kind: "over",
      column: layout.sx, value: group.label, left: group.start, width: group.end - group.start }));
    down.groups.forEach((group, i) => names.set(`sy${i}`, { parent: sides, kind: "above",
      column: layout.sy, value: group.label, top: group.start, height: group.end - group.start }));
    put(labels, heads, names, label);
  }

  function cellLabel(line, place) {
    const parts = [];
    const say = (column, value) => column && parts.push(`${column.label} ${farm.show(column, value)}`);
    say(layout.sy, layout.down[line].outer);
    say(layout.y, layout.down[line].inner);
    say(layout.sx, layout.across[place].outer);
    say(layout.x, layout.across[place].inner);
    return parts.join(", ");
  }

  function label({ kind, column, value, left, top, width, height }) {
    const text = farm.show(column, value);
    const inner = element("span", { title: `${column.label}: ${text}` });
    if (kind === "over" || kind === "above") {
      inner.append(element("em", {}, `${column.label} `), text);
    } else {
      // Whole lines, the last one with an ellipsis; the title, and a tap, tell the rest.
      const room = kind === "side" ? height
        : shape.head - (layout.sx ? BAND : 0) - (layout.y ? 0 : NAME) - 6;
      const lines = Math.max(1, Math.floor(room / labelLine()));
      inner.style.webkitLineClamp = lines;
      inner.classList.toggle("single", lines === 1);
      inner.textContent = text;
    }
    const node = element("div", { class: `label ${kind}`, role: kind === "side" ? "rowheader" : "columnheader" }, inner);
    if (left !== undefined) { node.style.left = `${left}px`; node.style.width = `${width}px`; }
    if (top !== undefined) { node.style.top = `${top}px`; node.style.height = `${height}px`; }
    return node;
  }

  const move = (node, x, y) => { node.style.transform = `translate(${x}px, ${y}px)`; };

  // --- the whole -------------------------------------------------------------------------------

  /** Lay out anew what the state asks for. */
  farm.draw = () => {
    const rows = farm.chosenRows();
    const columnOfColour = farm.state.color ? farm.column(farm.state.color) : null;
    const extent = columnOfColour ? farm.extent(columnOfColour, rows) : null;
    scale = extent && { column: columnOfColour, ...extent,
      place: (number) => (extent.high > extent.low
        ? (number - extent.low) / (extent.high - extent.low) : 0.5) };
    layout = farm.arrange(rows);
    shape = measure();
    const canvas = $("canvas");
    canvas.className = shape.isFlow ? "flow" : "axes";
    canvas.style.setProperty("--side", `${shape.side}px`);
    canvas.style.setProperty("--head", `${shape.head}px`);
    canvas.style.setProperty("--over", layout.sx ? `${BAND}px` : "0px");
    $("cells").style.width = `${shape.width}px`;
    $("cells").style.height = `${shape.height}px`;
    for (const map of [shown, labels]) { for (const node of map.values()) discard(node); map.clear(); }
    const corner = $("corner");
    corner.replaceChildren();
    corner.classList.toggle("alone", !layout.y && !layout.sy);
    if (!shape.isFlow) {
      const name = (axis, { label: text }, arrow) => corner.append(
        element("span", { class: axis, title: text }, element("span", {}, text), element("b", {}, arrow)));
      if (layout.x) name("axis-x", layout.x, "→");
      if (layout.y) name("axis-y", layout.y, "↓");
    }
    $("nothing").hidden = rows.length > 0;
    $("nothing-text").textContent = farm.rows ? "Nothing matches." : "Nothing has been rendered yet.";
    $("clear").hidden = farm.rows === 0;
    farm.shownRows = rows;
    farm.cellSize = shape.size;
    farm.scale = scale;
    focus = { line: Math.min(focus.line, Math.max(0, shape.lines - 1)), place: focus.place };
    draw();
    return rows.length;
  };

  /** Draw the cells of some rows again, where they stand. */
  farm.redrawRows = (rows) => {
    const wanted = new Set(rows.map(String));
    for (const [key, node] of shown) {
      for (const one of node.querySelectorAll("[data-row]:not(.more)")) {
        if (wanted.has(one.dataset.row)) one.replaceWith(tile(+one.dataset.row, +one.dataset.hidden));
      }
    }
  };

  // --- moving about ----------------------------------------------------------------------------

  function rowsAt(line, place) {
    if (shape.isFlow) {
      const row = layout.rows[line * shape.per + place];
      return row === undefined ? undefined : [row];
    }
    return layout.cell(line, place);
  }

  const bounds = () => (shape.isFlow ? { lines: shape.lines, places: shape.per }
    : { lines: layout.down.length, places: layout.across.length });

  /** The next cell with rows in a direction; null at the edge. */
  function beside(from, dx, dy) {
    const { lines, places } = bounds();
    let { line, place } = from;
    for (;;) {
      line += dy;
      place += dx;
      if (shape.isFlow && dx && (place < 0 || place >= places)) {
        line += dx;
        place = dx > 0 ? 0 : places - 1;
      }
      if (line < 0 || place < 0 || line >= lines || place >= places) return null;
      if (rowsAt(line, place)) return { line, place };
      if (shape.isFlow) return null;
    }
  }

  const keyOf = ({ line, place }) =>
    line * (shape.isFlow ? shape.per : layout.across.length) + place;

  function showFocus() {
    for (const node of shown.values()) {
      const isHere = Number(node.dataset.key) === keyOf(focus);
      node.classList.toggle("focused", isHere);
      node.tabIndex = isHere ? 0 : -1;
    }
  }

  function reveal() {
    const box = $("grid");
    const x = shape.isFlow ? focus.place * shape.step : shape.across.starts[focus.place];
    const y = shape.isFlow ? focus.line * shape.lineStep : shape.down.starts[focus.line];
    const [wide, high] = [box.clientWidth - shape.side, box.clientHeight - shape.head];
    if (x < box.scrollLeft) box.scrollLeft = x - GAP;
    else if (x + shape.size > box.scrollLeft + wide - 24) box.scrollLeft = x + shape.size - wide + 32;
    if (y < box.scrollTop + BAND) box.scrollTop = y - BAND - GAP;
    else if (y + shape.tall > box.scrollTop + high - 24) box.scrollTop = y + shape.tall - high + 32;
    draw();
  }

  /** Move the focus; returns the first row of the cell it lands on, or null at the edge. */
  farm.moveFocus = (dx, dy) => {
    const next = beside(focus, dx, dy);
    if (!next) return null;
    focus = next;
    reveal();
    shown.get(keyOf(focus))?.focus({ preventScroll: true });
    return rowsAt(focus.line, focus.place)[0];
  };

  /** The rows of the cell in focus. */
  farm.focusedRows = () => rowsAt(focus.line, focus.place) || [];

  /** Put the focus on the cell of a row. */
  farm.focusRow = (row) => {
    if (shape.isFlow) {
      const at = layout.rows.indexOf(row);
      if (at >= 0) focus = { line: Math.floor(at / shape.per), place: at % shape.per };
    } else {
      for (const [key, rows] of layout.cells) {
        if (!rows.includes(row)) continue;
        focus = { line: Math.floor(key / layout.across.length), place: key % layout.across.length };
        break;
      }
    }
    reveal();
  };

  farm.startGrid = () => {
    const box = $("grid");
    let isDue = false;
    box.addEventListener("scroll", () => {
      if (isDue) return;
      isDue = true;
      box.classList.toggle("down", box.scrollTop > 0);
      box.classList.toggle("along", box.scrollLeft > 0);
      requestAnimationFrame(() => { isDue = false; draw(); });
    }, { passive: true });
    let width = box.clientWidth;
    new ResizeObserver(() => {
      if (!shape) return;
      // Other sizes may need a scroll bar or need none any more; that alone must change none.
      if (!shape.isFlow && Math.abs(box.clientWidth - width) <= SCROLL_BAR) { draw(); return; }
      width = box.clientWidth;
      farm.redraw();
    }).observe(box);
    box.addEventListener("click", (event) => {
      const at = event.target.closest("[data-row]");
      if (!at) {
        // There is nothing to hover with on a phone.
        const cut = event.target.closest(".label [title], #corner [title]");
        if (cut) farm.say(cut.title);
        return;
      }
      const node = at.closest(".cell");
      const key = Number(node.dataset.key);
      const per = shape.isFlow ? shape.per : layout.across.length;
      focus = { line: Math.floor(key / per), place: key % per };
      showFocus();
      const row = Number(at.dataset.row);
      if (event.shiftKey || event.ctrlKey || event.metaKey) farm.pick(row);
      else farm.open(row);
    });
    box.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (step) { farm.moveFocus(...step); event.preventDefault(); }
      if (event.key === "Enter" && farm.focusedRows().length) {
        farm.open(farm.focusedRows()[0]);
        event.preventDefault();
      }
    });
  };
})();
