"use strict";
/* Load, draw, and draw again whenever the state changes. */

(() => {
  const NOT_LAID_OUT = new Set(["open", "compare", "against"]);

  async function start() {
    const loading = document.getElementById("loading");
    try {
      await farm.load((done) => { document.getElementById("progress").value = done; });
    } catch (error) {
      loading.replaceChildren(`The page's data is missing: ${error.message}`);
      return;
    }
    farm.served = farm.meta.served;
    farm.startState();
    farm.startControls();
    farm.startGrid();
    const redraw = () => farm.drawControls(farm.draw());
    farm.redraw = redraw;
    farm.onChange((what) => {
      const isLayout = [...what].some((key) => !NOT_LAID_OUT.has(key));
      if (isLayout || what.has("compare")) redraw();
      if (what.has("open")) farm.showZoom();
      if (what.has("against")) farm.followAgainst();
    });
    redraw();
    loading.remove();
    if (farm.state.open) farm.showZoom();
    else if (farm.state.against) farm.followAgainst();
    if (farm.served) farm.startLive();
    performance.mark("ready");
    document.documentElement.dataset.ready = "yes";
  }

  start();
})();
