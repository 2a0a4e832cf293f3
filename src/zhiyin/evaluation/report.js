// Draws the figures of the page in the colours of its theme, again whenever the theme changes.
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function draw() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line") };
    for (const { id, data, layout } of figures) {
      for (const trace of data) {
        if (trace.mode) trace.textfont = { color: colour("--ink"), size: 12 };
      }
      Plotly.react(id, data, {
        ...layout,
        xaxis: { ...axis, ...layout.xaxis },
        yaxis: { ...axis, ...layout.yaxis },
        font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--muted") },
        hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        dragmode: false,
        showlegend: false,
      }, { displayModeBar: false, responsive: true });
    }
  }
  draw();
  dark.addEventListener("change", draw);
})();
