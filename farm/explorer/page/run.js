"use strict";
/* Only with `farm serve`: how the run is doing, from the output alone, and a form for the next one. */

(() => {
  const { element } = farm;
  const $ = (id) => document.getElementById(id);
  const EVERY_MS = 4000;

  const theme = (() => { try { return localStorage.getItem("farm-theme"); } catch { return null; } })();
  if (theme) document.documentElement.dataset.theme = theme;

  const number = (value) => value.toLocaleString("en");

  function span(seconds) {
    if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
    if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
    if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
    return `${Math.round(seconds / 86400)} days`;
  }

  const ago = (time) => {
    const seconds = (Date.now() - Date.parse(time)) / 1000;
    return seconds < 5 ? "just now" : `${span(seconds)} ago`;
  };

  function rate(perSecond) {
    if (!perSecond) return "-";
    if (perSecond >= 1) return `${+perSecond.toPrecision(3)} images/s`;
    return `${+(perSecond * 60).toPrecision(3)} images/min`;
  }

  const facts = (pairs) => element("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== null)
    .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));

  function table(heads, rows, kind = "") {
    return element("table", { class: `report ${kind}` },
      element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", {}, head)))),
      element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, cell))))));
  }

  function drawProgress({ status }) {
    $("title").textContent = status.job || "run";
    $("title").title = status.output;
    document.title = `${status.phase} · ${status.job || "run"} · farm`;
    $("phase").textContent = status.phase;
    $("phase").className = `phase ${status.phase}`;
    const total = status.tasks ?? status.rendered + status.failed;
    const part = (count, kind) => {
      const bar = element("i", { class: kind });
      bar.style.width = `${total ? (100 * count) / total : 0}%`;
      return bar;
    };
    $("progress-part").replaceChildren(
      element("div", { class: "progress", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": total,
                       "aria-valuenow": status.rendered + status.failed },
              part(status.rendered, "done"), part(status.failed, "failed")),
      facts([
        ["rendered", total ? `${number(status.rendered)} of ${number(total)}` : number(status.rendered)],
        ["failed", status.failed ? number(status.failed) : null],
        ["to do", status.to_do ? number(status.to_do) : null],
        ["in flight", status.in_flight ? number(status.in_flight) : null],
        ["speed", status.images_per_second ? rate(status.images_per_second) : null],
        ["left", status.eta_s ? `about ${span(status.eta_s)}` : null],
        ["last activity", status.last_activity ? ago(status.last_activity) : null],
        ["runs", number(status.runs)],
      ]));
  }

  function drawWorkers({ workers }) {
    $("workers-part").replaceChildren(element("h2", {}, "Workers of the last run"), workers.length
      ? table(["worker", "node", "device", "rendered", "failed", "speed", "last image"],
              workers.map((one) => [one.worker, one.node, one.device || "-", number(one.rendered),
                                    number(one.failed), rate(one.images_per_second), ago(one.last)]), "short")
      : element("p", { class: "hint" }, "None has committed anything yet."));
  }

  function drawFailures({ failures, status }) {
    const part = $("failures-part");
    part.hidden = !failures.length;
    if (part.hidden) return;
    const kinds = Object.entries(status.failures).map(([kind, count]) => element("a", {
      class: "chip", href: `./#x=&y=&f.status=failed&f.error_kind=${encodeURIComponent(kind)}`,
    }, `${kind.replaceAll("_", " ")} · ${number(count)}`));
    part.replaceChildren(element("h2", {}, "Failures"), element("div", { class: "kinds" }, ...kinds),
      table(["what", "prompt", "seed", "where"], failures.map((one) => [
        element("a", { href: `./#open=${encodeURIComponent(one.id)}` },
                `${(one.error_kind || "failed").replaceAll("_", " ")}: ${one.error_message || ""}`),
        one.prompt || "", one.seed, `${one.worker || ""} on ${one.node || ""}`])));
  }

  const opened = new Set();

  function log(one, extra) {
    const text = element("pre", {}, one.tail || "nothing yet");
    const box = element("details", { class: "log", open: opened.has(one.log) },
                        element("summary", {}, one.log, " ", extra), text);
    box.addEventListener("toggle", () => {
      if (box.open) { opened.add(one.log); text.scrollTop = text.scrollHeight; } else opened.delete(one.log);
    });
    return { box, text };
  }

  function drawLogs({ started, logs }) {
    const here = new Set(started.map((one) => one.log));
    const parts = started.map((one) => {
      const isAtWork = one.exit === null;
      const state = isAtWork ? "at work" : one.exit === 0 ? "finished" : `ended with exit code ${one.exit}`;
      const { box, text } = log(one, element("span", { class: `hint ${isAtWork ? "running" : ""}` }, state));
      if (isAtWork) {
        box.querySelector("summary").append(" ", element("button", { type: "button", class: "stop",
          title: "Commit what is finished, then end",
          onclick: (event) => { event.preventDefault(); send("api/stop", { log: one.log }, "it will stop"); } }, "Stop"));
      }
      return { box, text };
    });
    for (const one of logs) if (!here.has(one.log)) parts.push(log(one, null));
    $("logs-part").replaceChildren(element("h2", {}, "Logs"), ...(parts.length ? parts.map(({ box }) => box)
      : [element("p", { class: "hint" }, "Runs that are submitted from this page leave their logs here.")]));
    for (const { box, text } of parts) if (box.open) text.scrollTop = text.scrollHeight;
  }

  async function send(address, body, done) {
    try {
      const told = await farm.post(address, body);
      if (done) farm.say(done);
      draw();
      return told;
    } catch (error) {
      farm.say(error.message);
      return null;
    }
  }

  // --- submitting ------------------------------------------------------------------------------

  async function fillJobs() {
    const { folder, files } = await farm.get("api/jobs");
    $("job").replaceChildren(...files.map((file) => element("option", { value: file }, file)));
    $("folder").textContent = files.length ? `below ${folder}` : `there is no job file below ${folder}`;
    $("plan").disabled = !files.length;
  }

  $("job").addEventListener("change", () => $("planned").replaceChildren());

  $("submit-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const job = $("job").value;
    $("planned").replaceChildren(element("p", { class: "hint" }, "Planning ..."));
    let told;
    try {
      told = await farm.post("api/plan", { job });
    } catch (error) {
      $("planned").replaceChildren(element("p", { class: "problem" }, error.message));
      return;
    }
    const text = element("details", {}, element("summary", {}, job), element("pre", {}, told.text));
    if (!told.plan) {
      $("planned").replaceChildren(element("pre", { class: "problem" }, told.problems), text);
      return;
    }
    const { plan } = told;
    const axes = Object.entries(plan.axes).map(([name, count]) => `${name} ${number(count)}`).join(" × ");
    const retry = element("input", { type: "checkbox", id: "retry" });
    $("planned").replaceChildren(
      facts([["tasks", number(plan.unique_tasks)], ["axes", axes || "none"], ["rendered", number(plan.done)],
             ["failed", plan.failed ? number(plan.failed) : null], ["to render", number(plan.to_render)],
             ["evaluations", number(plan.denoiser_evaluations)], ["model loads", number(plan.model_loads)],
             ["output", plan.output]]),
      text,
      element("div", { class: "go" },
        plan.failed ? element("label", { class: "level" }, retry, "try failed tasks again") : null,
        element("button", { type: "button", class: "primary", id: "submit", disabled: !plan.to_render && !plan.failed,
          onclick: async () => {
            const done = await send("api/submit", { job, retry_failed: retry.checked }, "submitted");
            if (done) { opened.add(done.log); $("planned").replaceChildren(); draw(); }
          } }, plan.to_render ? `Submit ${farm.count(plan.to_render, "task")}` : "Nothing to do")));
  });

  // --- keeping it fresh ------------------------------------------------------------------------

  let isDrawing = false;

  async function draw() {
    if (isDrawing) return;
    isDrawing = true;
    try {
      const told = await farm.get("api/status");
      for (const act of [drawProgress, drawWorkers, drawFailures, drawLogs]) act(told);
      document.documentElement.dataset.ready = "yes";
    } catch (error) {
      $("phase").textContent = `no answer: ${error.message}`;
    } finally {
      isDrawing = false;
    }
  }

  new EventSource("events").addEventListener("message", draw);
  setInterval(() => { if (!document.hidden) draw(); }, EVERY_MS);
  fillJobs().catch((error) => { $("folder").textContent = error.message; });
  draw();
})();
