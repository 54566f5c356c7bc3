"use strict";
// The page that compares detectors.

const candidates = data.candidates;

function drawSummary() {
  const coco = key => [row => row.coco[key], value => percent(value)];
  table(document.getElementById("summary"), [
    ["run", row => row.name], ["AP", ...coco("ap")], ["AP50", ...coco("ap50")], ["AP75", ...coco("ap75")], ["AP small", ...coco("ap_small")],
    ["AP medium", ...coco("ap_medium")], ["AP large", ...coco("ap_large")], ["best F1", row => row.recommended_threshold.f1, value => percent(value)],
    ["threshold", row => row.recommended_threshold.threshold, value => value.toFixed(3)],
    ["calibration error", row => row.expected_calibration_error, value => percent(value)],
  ], candidates);
}

function drawCosts() {
  const kinds = Object.keys(candidates[0].errors.costs);
  table(document.getElementById("costs"), [
    ["run", row => row.name], ...kinds.map(kind => [kind, row => row.errors.costs[kind], value => percent(value)]),
  ], candidates);
}

function drawCurves() {
  const charts = [["AP", "ap"], ["AP50", "ap50"], ["loss", "loss"], ["learning rate", "lr"]].map(([title, key]) => {
    const series = candidates.map((one, number) => ({
      name: one.name, color: color(number),
      points: one.history.map(row => [row.epoch, row[key]]).filter(point => point[1] !== null && point[1] !== undefined),
    })).filter(one => one.points.length);
    if (!series.length) return null;
    const box = element("div");
    lineChart(box, series, {xLabel: "epoch", title, fromZero: !key.startsWith("ap")});  // curves of AP differ little
    return element("div", {class: "card"}, element("h3", {}, title), box);
  }).filter(chart => chart);
  document.getElementById("run-charts").replaceChildren(...charts);
}

function drawDifferences() {
  const section = document.getElementById("differences");
  for (const {first, second, rows} of data.differences) {
    const target = element("div", {class: "card scroll"});
    const points = value => value === null ? "–" : `${value > 0 ? "+" : ""}${percent(value)}`;
    table(target, [
      ["class", row => row.name], [first, row => row.first, value => percent(value)], [second, row => row.second, value => percent(value)],
      ["difference", row => row.difference], ["95 % interval", row => row.low, () => ""],
    ], rows);
    const dress = () => target.querySelectorAll("tbody tr").forEach(line => {
      const row = rows.find(one => one.name === line.children[0].textContent);
      const text = element(row.is_significant ? "b" : "span", {class: row.is_significant ? (row.difference > 0 ? "up" : "down") : ""}, points(row.difference));
      line.children[3].replaceChildren(text);
      line.children[4].textContent = `${points(row.low)} … ${points(row.high)}`;
    });
    dress();
    target.addEventListener("click", dress);
    section.append(element("h3", {}, `${second} against ${first}`), target);
  }
}

drawSummary();
drawDifferences();
drawCosts();
drawCurves();
