"use strict";
/* Only with `farm serve`: what changes in the output appears by itself. */

(() => {
  let isAsking = false;
  let latest = 0;

  farm.post = async (address, body) => {
    const answer = await fetch(address, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    });
    const told = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
    if (!answer.ok) throw new Error(told.error);
    return told;
  };

  farm.get = async (address) => {
    const answer = await fetch(address);
    const told = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
    if (!answer.ok) throw new Error(told.error);
    return told;
  };

  const isTyping = () => document.activeElement?.matches("dialog input, dialog textarea");

  /** Take over what changed since the revision that the page has. */
  farm.catchUp = async () => {
    if (isAsking || latest <= farm.meta.revision) return;
    isAsking = true;
    try {
      const told = await farm.get(`api/changes?since=${farm.meta.revision}`);
      if (told.reload || !farm.applyChanges(told)) {
        if (isTyping()) { setTimeout(farm.catchUp, 2000); return; }
        location.reload(); // the address holds all that is looked at
        return;
      }
      if (told.rows.length) {
        const isNew = told.rows.some((row) => row >= (farm.drawnRows ?? 0));
        const { filters, q, sort, color } = farm.state;
        const isPlain = !isNew && !Object.keys(filters).length && !q && !sort && !color
          && !farm.chosenAxes().some(farm.isOutcome);
        if (isPlain) farm.redrawRows(told.rows); // where they stand: nothing moves under the mouse
        else farm.draw();
        farm.drawControls(farm.shownRows.length);
        farm.refreshZoom(told.rows);
      }
      farm.drawnRows = farm.rows;
    } catch {
      // The stream says when the server is back.
    } finally {
      isAsking = false;
    }
    if (latest > farm.meta.revision) farm.catchUp();
  };

  farm.startLive = () => {
    farm.drawnRows = farm.rows;
    document.body.classList.add("served");
    const stream = new EventSource("events");
    const dot = farm.element("span", { class: "dot", title: "live" });
    document.getElementById("title").after(dot);
    stream.addEventListener("message", (event) => {
      latest = Math.max(latest, JSON.parse(event.data).revision);
      dot.className = "dot live";
      dot.title = "live: what is committed appears here";
      // A server that was started again counts from 1.
      if (JSON.parse(event.data).revision < farm.meta.revision) { location.reload(); return; }
      farm.catchUp();
    });
    stream.addEventListener("error", () => {
      dot.className = "dot";
      dot.title = "the server does not answer; what is here stays";
    });
    farm.startVotes();
  };
})();
