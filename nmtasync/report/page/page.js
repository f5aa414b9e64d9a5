"use strict";

// The figures are data of others: they become text of nodes, or numbers, and never markup.
const { runs, target: firstTarget, colours } = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const form = document.getElementById("switches");
const smoothed = document.getElementById("smoothed");
const slider = document.getElementById("target");
const baseline = document.getElementById("baseline");

const UNITS = { seconds: [[1, "seconds"], [60, "minutes"], [3600, "hours"], [86400, "days"]] };
const TITLES = { target_words: "target words", updates: "updates", epochs: "epochs" };
const MAX_LEGEND = 24;
const clock = () => form.elements.clock.value;
const colour = (index) => colours[index % colours.length];
// Plotly reads a little HTML in names, and formulas between dollars.
const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", $: "&#36;" };
const escaped = (text) => text.replace(/[&<>$]/g, (sign) => ENTITIES[sign]);

function scale() {
  const longest = Math.max(0, ...runs.map((run) => run.training.seconds.at(-1) ?? 0));
  const known = UNITS[clock()] ?? [[1, TITLES[clock()]]];
  return known.filter(([size]) => size === 1 || longest >= 3 * size).at(-1);
}

function places(curves) {
  const [size] = scale();
  return curves[clock()].map((value) => (value === null ? null : value / size));
}

function layout(title, more = {}) {
  const style = getComputedStyle(document.documentElement);
  const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return {
    margin: { l: 55, r: 10, t: 30, b: 45 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: text, family: "system-ui, sans-serif", size: 12 },
    hovermode: "closest",
    hoverlabel: { namelength: 40 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    ...more,
    xaxis: { ...axis, title: { text: scale()[1] }, rangemode: "tozero", ...more.xaxis },
    yaxis: { ...axis, title: { text: title }, ...more.yaxis },
  };
}

function draw(id, traces, settings) {
  const options = { responsive: true, displaylogo: false, toImageButtonOptions: { filename: id } };
  const showlegend = traces.length <= MAX_LEGEND;
  Plotly.react(id, traces, { ...settings, showlegend }, options);
}

function curve(index, curves, values, more = {}) {
  const name = escaped(runs[index].name);
  const line = { color: colour(index), width: 2, ...more.line };
  return { type: "scatter", mode: "lines", name, x: places(curves), y: values, ...more, line };
}

const bleuOf = (run) => run.validations[smoothed.checked ? "smoothed_bleu" : "bleu"];

function drawBleu() {
  const height = Number(slider.value);
  const dash = { color: "gray", width: 1, dash: "dash" };
  const line = { type: "line", xref: "paper", x0: 0, x1: 1, y0: height, y1: height, line: dash };
  const traces = runs.map((run, index) =>
    curve(index, run.validations, bleuOf(run), { mode: "lines+markers", connectgaps: true }));
  draw("bleu", traces, layout("BLEU", { shapes: slider.disabled ? [] : [line] }));
}

function drawCrossEntropy() {
  const traces = runs.flatMap((run, index) => [
    curve(index, run.validations, run.validations.cross_entropy, { mode: "lines+markers" }),
    curve(index, run.training, run.training.loss, {
      name: `${escaped(run.name)}, training`, opacity: 0.8, line: { width: 1.3, dash: "dot" },
    }),
  ]);
  draw("cross_entropy", traces, layout("nats per target word"));
}

const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

function drawStaleness() {
  const traces = runs.flatMap((run, index) =>
    Object.entries(run.staleness_by_worker).map(([worker, values], number) =>
      curve(index, run.training, values, {
        name: `${escaped(run.name)}, worker ${worker}`,
        line: { width: 1.5, dash: DASHES[number % DASHES.length] },
      })));
  draw("staleness", traces, layout("updates late", { yaxis: { rangemode: "tozero" } }));
}

function drawHistogram() {
  const traces = runs.map((run, index) => {
    const late = Object.keys(run.staleness_histogram).map(Number);
    const counts = Object.values(run.staleness_histogram);
    const all = counts.reduce((sum, count) => sum + count, 0);
    const y = counts.map((count) => (100 * count) / all);
    return { type: "bar", name: escaped(runs[index].name), x: late, y, marker: { color: colour(index) } };
  });
  const xaxis = { title: { text: "updates late" }, tickformat: "d", rangemode: "normal" };
  draw("histogram", traces, layout("% of pushes", { xaxis, barmode: "group" }));
}

function drawSimple(id, title, more) {
  const traces = runs.map((run, index) => curve(index, run.training, run.training[id]));
  draw(id, traces, layout(title, more));
}

function drawAll() {
  drawBleu();
  drawCrossEntropy();
  drawSimple("target_words_per_second", "target words/s", { yaxis: { rangemode: "tozero" } });
  drawStaleness();
  drawHistogram();
  drawSimple("learning_rate", "learning rate", { yaxis: { rangemode: "tozero", exponentformat: "e" } });
  drawSimple("batches_per_push", "batches of a push", { yaxis: { rangemode: "tozero" } });
  drawSimple("momentum", "momentum", {});
}

/** Where BLEU first reached a target, as nmtasync/report/curves.py finds it; null if it never did. */
function reach(run, target) {
  const { seconds, target_words, updates } = run.validations;
  let before = { height: 0, at: [0, 0, 0] };
  for (const [index, height] of bleuOf(run).entries()) {
    if (height === null) continue;
    const at = [seconds[index], target_words[index], updates[index]];
    if (height >= target) {
      const rise = height - before.height;
      const share = rise > 0 ? Math.max(0, target - before.height) / rise : 1;
      return before.at.map((value, k) => value + share * (at[k] - value));
    }
    before = { height, at };
  }
  return null;
}

function duration(seconds) {
  const whole = Math.round(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value) => String(value).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

function showTimes() {
  const target = Number(slider.value);
  document.getElementById("chosen").textContent = slider.disabled ? "none yet" : target.toFixed(2);
  const reached = runs.map((run) => reach(run, target));
  const other = reached[baseline.selectedIndex] ?? null;
  const whole = (value) => Math.round(value).toLocaleString("en");
  const rows = runs.map((run, index) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = colour(index);
    name.append(swatch, run.name);
    const own = reached[index];
    let cells = ["not reached", "–", "–", "–", "–", "–"];
    if (own !== null) {
      cells = [duration(own[0]), whole(own[1]), whole(own[2]), "–", "–", "–"];
      if (other !== null && own[0] > 0 && own[1] > 0 && other[1] > 0) {
        const [faster, byWords] = [other[0] / own[0], other[1] / own[1]];
        cells.splice(3, 3, ...[faster, byWords, faster / byWords].map((value) => value.toFixed(2)));
      }
    }
    row.append(name, ...cells.map((text) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      return cell;
    }));
    return row;
  });
  document.getElementById("times_body").replaceChildren(...rows);
}

function setSlider() {
  const best = Math.max(0, ...runs.flatMap((run) => bleuOf(run).map((value) => value ?? 0)));
  slider.disabled = best === 0;
  slider.max = String(Math.floor(best * 100) / 100);
  slider.min = String(Math.min(0.01, best));
}

setSlider();
slider.value = String(firstTarget ?? slider.max);
for (const run of runs) baseline.append(new Option(run.name));
showTimes();
drawAll();

let waiting = false;
slider.addEventListener("input", () => {
  showTimes();
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawBleu(); });
});
baseline.addEventListener("change", showTimes);
smoothed.addEventListener("change", () => { setSlider(); showTimes(); drawBleu(); });
form.addEventListener("change", drawAll);
dark.addEventListener("change", drawAll);
