"use strict";
// Charts as SVG, sortable tables and the light and dark switch. Text of the data only ever becomes text of a node.

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function shape(name, attributes = {}, text = null) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  return node;
}

function color(number) {
  return `hsl(${(208 + number * 137.5) % 360} 70% ${[48, 38, 60][Math.floor(number / 8) % 3]}%)`;
}

function percent(value, digits = 1) {
  return value === null || value === undefined ? "–" : (100 * value).toFixed(digits);
}

function ticks(low, high, count = 5) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(f => f * power).find(s => s >= rough * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) found.push(n * step);
  return found;
}

function tickText(value) {
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(0) : String(+value.toPrecision(4));
}

/* Draw lines: series = [{name, points: [[x, y]…], color?, dashed?, quiet?}]. Returns functions of the two axes. */
function lineChart(target, series, options = {}) {
  const width = 560, height = 320, left = 52, right = 12, top = 12, bottom = 44;
  const all = series.flatMap(one => one.points).filter(p => p[1] !== null && isFinite(p[1]));
  const [xLow, xHigh] = options.x || range(all.map(p => p[0])), [yLow, yHigh] = options.y || range(all.map(p => p[1]), options.fromZero !== false);
  const x = value => left + (value - xLow) / (xHigh - xLow || 1) * (width - left - right);
  const y = value => height - bottom - (value - yLow) / (yHigh - yLow || 1) * (height - top - bottom);
  const svg = shape("svg", {viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": options.title || ""});
  for (const value of ticks(xLow, xHigh)) {
    svg.append(shape("line", {x1: x(value), x2: x(value), y1: top, y2: height - bottom, class: "grid-line"}));
    svg.append(shape("text", {x: x(value), y: height - bottom + 18, "text-anchor": "middle"}, tickText(value)));
  }
  for (const value of ticks(yLow, yHigh)) {
    svg.append(shape("line", {x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid-line"}));
    svg.append(shape("text", {x: left - 6, y: y(value) + 4, "text-anchor": "end"}, tickText(value)));
  }
  svg.append(shape("text", {x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle"}, options.xLabel || ""));
  series.forEach((one, number) => {
    const points = one.points.filter(p => p[1] !== null && isFinite(p[1]));
    const path = points.map((p, n) => `${n ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
    const stroke = one.color || color(number);
    const line = shape("path", {d: path, fill: "none", stroke, "stroke-width": one.quiet ? 1.1 : 2, opacity: one.quiet ? 0.65 : 1});
    if (one.dashed) line.setAttribute("stroke-dasharray", "5 4");
    line.append(shape("title", {}, one.name));
    svg.append(line);
    if (points.length === 1) svg.append(shape("circle", {cx: x(points[0][0]), cy: y(points[0][1]), r: 3, fill: stroke}));
  });
  target.replaceChildren(svg);
  if (options.legend !== false && series.length > 1) target.append(legend(series.map((one, n) => [one.name, one.color || color(n)])));
  return {svg, x, y};
}

function range(values, fromZero = false) {
  if (!values.length) return [0, 1];
  const low = fromZero ? Math.min(0, ...values) : Math.min(...values), high = Math.max(...values);
  return low === high ? [low, low + 1] : [low, fromZero ? low + (high - low) * 1.05 : high];
}

function legend(entries) {
  const node = element("div", {class: "legend"});
  for (const [name, fill] of entries) node.append(element("span", {}, element("i", {style: `background:${fill}`}), name));
  return node;
}

/* Draw bars: rows = [{name, value (null: none), note?, color?}]; values from 0 to top. */
function barChart(target, rows, top, format = percent) {
  const height = 28, width = 460, left = 108, right = 140;
  const svg = shape("svg", {viewBox: `0 0 ${width} ${rows.length * height}`, class: "chart", role: "img"});
  rows.forEach((row, number) => {
    const y = number * height, length = row.value === null ? 0 : Math.max(1, row.value / (top || 1) * (width - left - right));
    svg.append(shape("text", {x: left - 8, y: y + 19, "text-anchor": "end"}, row.name));
    svg.append(shape("rect", {x: left, y: y + 6, width: length, height: 18, rx: 3, fill: row.color || "var(--accent)"}));
    const text = `${row.value === null ? "–" : format(row.value)}${row.note ? `  (${row.note})` : ""}`;
    svg.append(shape("text", {x: left + length + 6, y: y + 19}, text));
  });
  target.replaceChildren(svg);
}

/* Fill a table: columns = [[title, row => value, value => text]]; a click on a title sorts. */
function table(target, columns, rows, sorted = null) {
  let by = sorted === null ? -1 : sorted, down = true;
  const body = element("tbody"), head = element("tr");
  function draw() {
    const order = [...rows];
    if (by >= 0) order.sort((a, b) => compareValues(columns[by][1](a), columns[by][1](b), down));
    [...head.children].forEach((cell, n) => n === by ? cell.setAttribute("aria-sort", down ? "descending" : "ascending") : cell.removeAttribute("aria-sort"));
    body.replaceChildren(...order.map(row => element("tr", {}, ...columns.map(([, value, text]) => {
      const shown = text ? text(value(row)) : value(row);
      return element("td", {}, shown === null || shown === undefined ? "–" : shown instanceof Node ? shown : String(shown));
    }))));
  }
  columns.forEach(([title], number) => {
    const button = element("button", {type: "button"}, title);
    button.onclick = () => { down = by === number ? !down : true; by = number; draw(); };
    head.append(element("th", {scope: "col"}, button));
  });
  target.replaceChildren(element("table", {}, element("thead", {}, head), body));
  draw();
}

function compareValues(a, b, down) {
  if (a === null || a === undefined) return 1;
  if (b === null || b === undefined) return -1;
  const order = typeof a === "string" ? a.localeCompare(b) : b - a;
  return down ? order : -order;
}

(function theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  root.dataset.theme = dark.matches ? "dark" : "light";
  document.getElementById("theme").onclick = () => { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; };
  dark.addEventListener("change", () => { root.dataset.theme = dark.matches ? "dark" : "light"; });
})();
