"use strict";
// The charts, drawn anew where their place changes its width; colours follow the theme.
(() => {
  const told = JSON.parse(document.getElementById("charts").textContent);
  const line = "var(--accent)";
  const quiet = "var(--line)";
  const style = { background: "none", color: "var(--muted)", fontSize: "12px", overflow: "visible" };

  const curve = (key, label, width) => {
    const rows = told.training;
    const best = rows.reduce((a, b) => (b.ndcg > a.ndcg ? b : a));
    return Plot.plot({
      width,
      height: 210,
      marginTop: 10,
      marginLeft: 48,
      style,
      ariaLabel: label,
      x: { label: "epoch", ticks: Math.min(rows.length, 8), tickFormat: "d", labelArrow: "none" },
      y: { label: null, ticks: 5, nice: true },
      marks: [
        Plot.gridY({ stroke: quiet, strokeOpacity: 1, ticks: 5 }),
        Plot.lineY(rows, { x: "epoch", y: key, stroke: line, strokeWidth: 2, curve: "monotone-x" }),
        Plot.dot([best], { x: "epoch", y: key, r: 5, fill: line, stroke: "var(--surface)", strokeWidth: 2 }),
      ],
    });
  };

  const intervals = (rows, label, at, width, domain) => {
    const most = Math.max(8, Math.floor((width * 0.48 - 18) / 6.6));
    const short = (name) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);
    const longest = Math.max(...rows.map((row) => short(row.name).length));
    return Plot.plot({
      width,
      height: 30 + 28 * rows.length,
      marginLeft: 18 + 6.6 * longest,
      marginRight: 24,
      marginTop: 6,
      style,
      ariaLabel: label,
      x: { label: null, ticks: 4, nice: true, domain },
      y: { label: null, domain: rows.map((row) => row.name), tickFormat: short, tickSize: 0 },
      marks: [
        Plot.gridX({ stroke: quiet, strokeOpacity: 1, ticks: 4 }),
        Plot.ruleX([at], { stroke: "var(--muted)", strokeDasharray: "3,3" }),
        Plot.link(rows, { x1: "low", x2: "high", y1: "name", y2: "name", stroke: line, strokeWidth: 3, strokeOpacity: 0.45, strokeLinecap: "round" }),
        Plot.dot(rows, { x: "mean", y: "name", r: 5, fill: line, stroke: "var(--surface)", strokeWidth: 1.5, title: (row) => `${row.name}: ${row.mean.toFixed(4)}` }),
      ],
    });
  };

  const highest = Math.max(0, ...told.slices.flatMap((group) => group.rows.map((row) => row.high)));
  const drawn = {
    loss: (_place, width) => curve("loss", "Loss by epoch", width),
    ndcg: (_place, width) => curve("ndcg", "NDCG@10 on validation by epoch", width),
    slice: (place, width) => {
      const group = told.slices[place.dataset.at];
      return intervals(group.rows, group.heading, told.overall, width, [0, highest]);
    },
    worth: (_place, width) => intervals(told.worth, "NDCG@10 lost without each modality", 0, width),
  };

  const draw = (place) => {
    const width = Math.floor(place.clientWidth);
    if (width && width !== Number(place.dataset.width)) {
      place.dataset.width = width;
      const chart = drawn[place.dataset.chart](place, width);
      chart.setAttribute("role", "img");
      for (const part of chart.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
      place.replaceChildren(chart);
    }
  };
  const watch = new ResizeObserver((entries) => entries.forEach((entry) => draw(entry.target)));
  for (const place of document.querySelectorAll(".chart")) watch.observe(place); // tells at once
})();
