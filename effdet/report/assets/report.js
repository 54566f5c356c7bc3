"use strict";
// The page of one detector.

const byId = id => document.getElementById(id);
const names = data.per_class.map(row => row.name), curves = data.curves;
const recommended = data.recommended_threshold.threshold;
// The recommended threshold is a position of the slider, too.
const stops = [...new Set([...curves.thresholds, recommended])].sort((a, b) => a - b);
let threshold = recommended;

function countsAt(labels, step) {
  const total = rows => labels.reduce((sum, label) => sum + rows[label][step], 0);
  const found = total(curves.true_positives), wrong = total(curves.false_positives);
  return scores(found, wrong, labels.reduce((sum, label) => sum + curves.boxes[label], 0) - found);
}

function scores(found, wrong, missed) {
  return {
    found, wrong, missed,
    precision: found + wrong ? found / (found + wrong) : 1,
    recall: found + missed ? found / (found + missed) : 1,
    f1: found ? 2 * found / (2 * found + wrong + missed) : 0,
  };
}

function chosenLabels() {
  const value = byId("class").value;
  return value === "" ? names.map((_, label) => label) : [Number(value)];
}

/* Counts at the threshold of the slider: exact where it is the recommended one, else at the next hundredth. */
function countsNow() {
  const labels = chosenLabels(), best = data.recommended_threshold;
  if (labels.length === names.length && threshold === recommended) return scores(best.true_positives, best.false_positives, best.missed);
  return countsAt(labels, curves.thresholds.findIndex(value => value >= threshold - 1e-9));
}

let precisionRecall, f1Curve;

function drawCurves() {
  const labels = chosenLabels(), single = labels.length === 1;
  const ofLabels = (group, name, quiet) => {
    const at = curves.thresholds.map((_, step) => countsAt(group, step));
    const fill = quiet || single ? color(group[0]) : "var(--text)";
    return {
      precisionRecall: {name, quiet, color: fill, points: at.filter(c => c.found + c.wrong).map(c => [c.recall, c.precision])},
      f1: {name, quiet, color: fill, points: at.map((c, step) => [curves.thresholds[step], c.f1])},
    };
  };
  const lines = single ? [] : labels.filter(label => curves.boxes[label]).slice(0, 30).map(label => ofLabels([label], names[label], true));
  lines.push(ofLabels(labels, single ? names[labels[0]] : "all classes", false));
  precisionRecall = lineChart(byId("pr"), lines.map(l => l.precisionRecall), {x: [0, 1], y: [0, 1], xLabel: "recall", title: "precision against recall"});
  f1Curve = lineChart(byId("f1"), lines.map(l => l.f1), {x: [0, 1], y: [0, 1], xLabel: "threshold", title: "F1 against threshold"});
  drawThreshold();
}

function drawThreshold() {
  const now = countsNow();
  byId("threshold-value").textContent = tickText(threshold);
  byId("now-precision").textContent = percent(now.precision);
  byId("now-recall").textContent = percent(now.recall);
  byId("now-f1").textContent = percent(now.f1);
  byId("now-found").textContent = now.found;
  byId("now-wrong").textContent = now.wrong;
  byId("now-missed").textContent = now.missed;
  for (const {svg} of [precisionRecall, f1Curve]) svg.querySelectorAll(".now").forEach(node => node.remove());
  const at = precisionRecall;
  at.svg.append(shape("circle", {class: "now", cx: at.x(now.recall), cy: at.y(now.precision), r: 6, fill: "var(--bad)"}));
  const x = f1Curve.x(threshold);
  f1Curve.svg.append(shape("line", {class: "now", x1: x, x2: x, y1: f1Curve.y(0), y2: f1Curve.y(1), stroke: "var(--bad)", "stroke-width": 2}));
}

function setThreshold(value) {
  threshold = value;
  byId("threshold").value = stops.indexOf(value);
  drawThreshold();
  drawGallery();
}

function drawHeadline() {
  const rows = [["AP", data.coco.ap], ["AP50", data.coco.ap50], ["AP75", data.coco.ap75], ["AP small", data.coco.ap_small],
    ["AP medium", data.coco.ap_medium], ["AP large", data.coco.ap_large], ["best F1", data.recommended_threshold.f1]];
  const tiles = rows.map(([name, value]) => [name, percent(value)]);
  tiles.push(["at threshold", tickText(recommended)], ["images", data.images], ["boxes", data.boxes]);
  byId("headline").replaceChildren(...tiles.map(([name, value]) => element("div", {class: "tile"}, element("b", {}, String(value)), element("span", {}, name))));
  const best = key => row => row.best_threshold === null ? null : row.best_threshold[key];
  table(byId("classes"), [
    ["class", row => row.name], ["boxes", row => row.boxes], ["AP", row => row.ap, v => percent(v)], ["AP50", row => row.ap50, v => percent(v)],
    ["best F1", best("f1"), v => percent(v)], ["at threshold", best("threshold")],
    ["precision", best("precision"), v => percent(v)], ["recall", best("recall"), v => percent(v)],
  ], data.per_class);
}

function drawHistory() {
  const history = data.history;
  if (!history.length) return;
  byId("run").hidden = false;
  const line = (name, key, options = {}) => ({name, points: history.map(row => [row.epoch, row[key]]).filter(p => p[1] !== null && p[1] !== undefined && p[1] >= 0), ...options});
  const charts = [
    ["loss", [line("loss", "loss"), line("class loss", "class_loss"), line("box loss", "box_loss"), line("validation loss", "val_loss")]],
    ["AP", [line("AP", "ap"), line("AP50", "ap50"), line("AP75", "ap75")]],
    ["learning rate", [line("learning rate", "lr")]], ["images/s", [line("images/s", "images_per_second")]],
  ];
  byId("run-charts").replaceChildren(...charts.map(([title, series]) => {
    const box = element("div"), card = element("div", {class: "card"}, element("h3", {}, title), box);
    lineChart(box, series.filter(one => one.points.length), {xLabel: "epoch", title});
    return card;
  }));
}

function drawConfusion() {
  const {classes, matrix} = data.confusion;
  const used = classes.map((_, n) => n).filter(n => n === classes.length - 1 || matrix[n].some(v => v) || matrix.some(row => row[n]));
  const head = element("tr", {}, element("th", {}, "labelled ↓\ndetected →"), ...used.map(n => element("th", {title: classes[n]}, classes[n])));
  const rows = used.map(row => {
    const sum = Math.max(1, used.reduce((total, column) => total + matrix[row][column], 0));
    return element("tr", {}, element("th", {scope: "row"}, classes[row]), ...used.map(column => {
      const count = matrix[row][column], hue = row === column ? "var(--good)" : "var(--bad)";
      const part = Math.round(70 * count / sum);
      return element("td", {style: `background:color-mix(in srgb, ${hue} ${part}%, transparent)`, title: `${classes[row]} → ${classes[column]}: ${count}`}, count ? String(count) : "");
    }));
  });
  byId("confusion-table").replaceChildren(element("table", {class: used.length > 6 ? "confusion wide" : "confusion"}, element("thead", {}, head), element("tbody", {}, ...rows)));
  byId("confused").textContent = mostConfused(classes, matrix);
}

function mostConfused(classes, matrix) {
  const last = classes.length - 1;  // the background
  const pairs = matrix.slice(0, last).flatMap((row, n) => row.slice(0, last).map((count, other) => ({n, other, count}))).filter(pair => pair.n !== pair.other && pair.count);
  if (!pairs.length) return "No class is taken for another one.";
  const most = pairs.sort((a, b) => b.count - a.count).slice(0, 5).map(({n, other, count}) => `${classes[n]} for ${classes[other]} (${count})`);
  return `Taken for another class most often: ${most.join(", ")}.`;
}

function drawErrors() {
  const {costs, false_positives, false_negatives, ap50} = data.errors;
  const rows = Object.entries(costs).map(([name, value]) => ({name, value, note: `${data.error_counts[name]} times`, color: kindColor(name)}));
  const more = [{name: "all false", value: Math.max(0, false_positives)}, {name: "all missing", value: Math.max(0, false_negatives)}];
  barChart(byId("error-costs"), [...rows, ...more], Math.max(0.01, ...[...rows, ...more].map(row => row.value)));
  byId("error-note").textContent = `AP50 is ${percent(ap50)}. Each bar says how many points it would gain without this kind of error. The bars do not add up. In brackets: how often it happens at the threshold ${tickText(recommended)}.`;
}

function kindColor(kind) {
  return {class: "#e5484d", location: "#f5a623", both: "#b657d6", duplicate: "#3e9bff", background: "#8b98a9", missed: "#12a594"}[kind] || "var(--accent)";
}

function drawCalibration() {
  const {bins, expected_error, smallest_score} = data.calibration;
  byId("calibration-note").textContent = `Expected calibration error ${percent(expected_error)} points, of the detections with a score of ${smallest_score} or more. On the dashed line scores are probabilities; below it the detector is too sure.`;
  const filled = bins.filter(bin => bin.count);
  const chart = lineChart(byId("reliability"), [
    {name: "perfect", points: [[0, 0], [1, 1]], dashed: true, color: "var(--soft)"},
    {name: "this detector", points: filled.map(bin => [bin.mean_score, bin.precision]), color: "var(--accent)"},
  ], {x: [0, 1], y: [0, 1], xLabel: "score", title: "part of the detections that are true, by score"});
  for (const bin of filled) {
    const dot = shape("circle", {cx: chart.x(bin.mean_score), cy: chart.y(bin.precision), r: 3 + 5 * Math.sqrt(bin.count / Math.max(...filled.map(b => b.count))), fill: "var(--accent)", opacity: 0.7});
    dot.append(shape("title", {}, `${bin.count} detections: score ${bin.mean_score.toFixed(2)}, ${percent(bin.precision)} % true`));
    chart.svg.append(dot);
  }
}

function drawGroups() {
  const text = (low, high) => high === null ? `${+low.toFixed(2)} and more` : `${+low.toFixed(2)} – ${+high.toFixed(2)}`;
  const rows = (groups, key) => groups.map(group => ({name: text(group.low, group.high), value: group[key], note: `${group.boxes ?? group.num_boxes} boxes`}));
  barChart(byId("by-size"), rows(data.by_size, "ap50"), 1);
  barChart(byId("by-ratio"), rows(data.by_aspect_ratio, "ap50"), 1);
  byId("anchor-card").hidden = !data.anchors.length;
  if (data.anchors.length) barChart(byId("anchors"), rows(data.anchors, "recall"), 1);
}

// -- the gallery -------------------------------------------------------------------------------------------------------

let shownImages = 12;

/* Errors of an image at the threshold, of the class if one is chosen: a set of kinds. */
function kindsOf(image, label) {
  const kinds = new Set();
  for (const [, , , , itsLabel, score, kind] of image.found) if (kind && kind !== "crowd" && score >= threshold && (label === null || label === itsLabel)) kinds.add(kind);
  for (const [, , , , itsLabel, score] of image.boxes) if (score >= 0 && score < threshold && (label === null || label === itsLabel)) kinds.add("missed");
  return kinds;
}

function hasClass(image, label) {
  return image.boxes.some(box => box[4] === label) || image.found.some(box => box[4] === label && box[5] >= threshold);
}

function picture(image, kind) {
  const node = element("div", {class: "picture", style: `aspect-ratio:${image.width}/${image.height}`});
  if (image.source) node.append(element("img", {src: image.source, alt: image.file}));
  const svg = shape("svg", {viewBox: `0 0 ${image.width} ${image.height}`, preserveAspectRatio: "none"});
  const boxes = kind === "labels" ? image.boxes : image.found.filter(box => box[5] >= threshold);
  for (const box of boxes) svg.append(...outlined(image, box, kind));
  node.append(element("small", {}, kind), svg);
  return node;
}

function outlined(image, box, kind) {
  const [x, y, width, height, label, score, error] = box;
  const missed = kind === "labels" && score >= 0 && score < threshold;
  const stroke = kind === "labels" ? (score < 0 ? "#8b98a9" : missed ? kindColor("missed") : "#30c060") : (error && error !== "crowd" ? kindColor(error) : error === "crowd" ? "#8b98a9" : "#30c060");
  const rect = shape("rect", {x, y, width, height, fill: "none", stroke, "stroke-width": missed || error ? 3 : 2, "vector-effect": "non-scaling-stroke"});
  if (missed) rect.setAttribute("stroke-dasharray", "6 4");
  const words = kind === "labels" ? `${names[label]}${missed ? ", missed" : score < 0 ? ", crowd" : ""}` : `${names[label]} ${score.toFixed(2)}${error ? `, ${error}` : ""}`;
  rect.append(shape("title", {}, words));
  const size = Math.max(image.width, image.height) / 28;
  const text = shape("text", {x: x + 2, y: Math.max(size, y - 3), "font-size": size, fill: stroke, stroke: "#000c", "stroke-width": size / 7, "paint-order": "stroke"}, kind === "labels" ? names[label] : `${names[label]} ${score.toFixed(2)}`);
  return [rect, text];
}

function drawGallery() {
  const label = byId("gallery-class").value === "" ? null : Number(byId("gallery-class").value), kind = byId("gallery-kind").value;
  const chosen = data.gallery.filter(image => (label === null || hasClass(image, label)) && (kind === "" || kindsOf(image, label).has(kind)));
  byId("gallery-count").textContent = `${chosen.length} of ${data.gallery.length} images shown here, ${data.images} in all`;
  byId("gallery-images").replaceChildren(...chosen.slice(0, shownImages).map(image => {
    const kinds = [...kindsOf(image, null)].join(", ") || "no error";
    const figure = element("figure", {class: "shot", tabindex: 0}, element("div", {class: "pair"}, picture(image, "labels"), picture(image, "detections")),
      element("figcaption", {}, `${image.file}: F1 ${percent(image.f1, 0)}, ${kinds}`));
    figure.onclick = () => zoom(image);
    figure.onkeydown = event => { if (event.key === "Enter") zoom(image); };
    return figure;
  }));
  byId("gallery-more").hidden = chosen.length <= shownImages;
}

function zoom(image) {
  const dialog = byId("zoom"), pair = element("div", {class: "pair"}, picture(image, "labels"), picture(image, "detections"));
  let scale = 1;
  const change = factor => { scale = Math.min(8, Math.max(1, scale * factor)); pair.style.width = `${100 * scale}%`; };
  const button = (text, label, act) => { const node = element("button", {class: "plain", type: "button", "aria-label": label}, text); node.onclick = act; return node; };
  dialog.replaceChildren(element("div", {class: "bar"}, element("span", {}, image.file), button("−", "smaller", () => change(1 / 1.5)), button("+", "larger", () => change(1.5)), button("close", "close", () => dialog.close())), pair);
  dialog.showModal();
}

function drawCrops() {
  const groups = data.crops.map(group => {
    const crops = group.crops.map(item => element("figure", {}, item.source ? element("img", {src: item.source, alt: item.text}) : element("div", {class: "missing"}), element("figcaption", {}, item.text, element("br"), item.file)));
    return element("div", {class: "card", id: `crops-${group.kind}`}, element("h3", {}, group.title), element("p", {class: "note"}, group.crops.length ? group.about : "None."), element("div", {class: "crops"}, ...crops));
  });
  byId("crop-groups").replaceChildren(...groups);
}

function drawAbout() {
  const {facts, findings, config} = data.about;
  byId("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  byId("findings").replaceChildren(...(findings.length ? findings : ["Nothing was found."]).map(text => element("li", {}, text)));
  byId("config-card").hidden = !config;
  byId("config").textContent = config;
}

function start() {
  for (const id of ["class", "gallery-class"]) names.forEach((name, label) => byId(id).append(element("option", {value: label}, name)));
  for (const kind of Object.keys(data.errors.costs)) byId("gallery-kind").append(element("option", {value: kind}, kind));
  byId("threshold").max = stops.length - 1;
  byId("threshold").oninput = event => setThreshold(stops[Number(event.target.value)]);
  byId("recommend").onclick = () => setThreshold(recommended);
  byId("recommend").textContent = `use the recommended ${tickText(recommended)}`;
  byId("class").onchange = drawCurves;
  for (const id of ["gallery-class", "gallery-kind"]) byId(id).onchange = () => { shownImages = 12; drawGallery(); };
  byId("gallery-more").onclick = () => { shownImages += 24; drawGallery(); };
  drawHeadline(); drawHistory(); drawCurves(); drawConfusion(); drawErrors(); drawCalibration(); drawGroups(); drawCrops(); drawAbout();
  setThreshold(recommended);
}

start();
