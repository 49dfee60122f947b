// The data of the page as curves know them, and numbers as people read them.
// SPDX-License-Identifier: Apache-2.0

/** What the controls say; every part of the page reads it. */
const state = {
  runs: [], smoothing: 0.6, axis: 'step', zoom: null, filter: '', hidden: new Set(),
};

/** An array of numbers out of one with nulls. */
function numbers(list) {
  return Float64Array.from(list, (value) => (value === null ? NaN : value));
}

function tableOf(raw) {
  const columns = new Map();
  for (const [name, column] of Object.entries(raw.columns)) {
    columns.set(name, {
      mean: numbers(column.mean),
      low: column.low ? numbers(column.low) : null,
      high: column.high ? numbers(column.high) : null,
    });
  }
  return { steps: numbers(raw.steps), columns, stride: raw.stride, odd: raw.odd,
    generation: raw.generation };
}

/** Rows of `raw` behind those of `table`, from row `raw.first` on. */
function joinTables(table, raw) {
  if (!table || raw.first === 0) return tableOf(raw);
  const more = tableOf(raw);
  const joined = (before, after) => {
    const all = new Float64Array(raw.rows).fill(NaN);
    if (before) all.set(before.subarray(0, raw.first));
    if (after) all.set(after, raw.first);
    return all;
  };
  const columns = new Map();
  for (const name of new Set([...table.columns.keys(), ...more.columns.keys()])) {
    const a = table.columns.get(name), b = more.columns.get(name);
    const part = (key) => joined(a && (a[key] || a.mean), b && (b[key] || b.mean));
    const hasSpread = (a && a.low) || (b && b.low);
    columns.set(name, { mean: part('mean'), low: hasSpread ? part('low') : null,
      high: hasSpread ? part('high') : null });
  }
  return { ...more, steps: joined(table.steps, more.steps), columns };
}

/** A run as the page holds it; `raw` is what the program wrote. */
function runOf(raw, index) {
  return { ...raw, index, curves: tableOf(raw.curves), evaluations: tableOf(raw.evaluations) };
}

/** The colour of the n-th curve or run. */
function colorOf(index) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--c${index % 8}`).trim();
}

function shownRuns() {
  return state.runs.filter((run) => !state.hidden.has(run.index));
}

/** The places of a table's rows on the axis that is chosen. */
function axisOf(run, table) {
  if (state.axis !== 'tokens') return table.steps;
  const tokens = run.curves.columns.get('num_tokens');
  if (!tokens) return table.steps;
  if (table === run.curves) return tokens.mean;
  return table.steps.map((step) => {
    const row = nearest(run.curves.steps, step);
    return step === 0 ? 0 : tokens.mean[row];
  });
}

/** The index of the value nearest to `x` in a list that rises; -1 of an empty one. */
function nearest(list, x) {
  let low = 0, high = list.length - 1;
  if (high < 0) return -1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (list[middle] <= x) low = middle;
    else high = middle;
  }
  return Math.abs(list[low] - x) <= Math.abs(list[high] - x) ? low : high;
}

/**
 * The exponential moving average of `values`: weight^k for the value k rows back, of what has come
 * so far. Rows without a value stay without.
 */
function smooth(values, weight) {
  if (weight <= 0) return values;
  const result = new Float64Array(values.length);
  let sum = 0, total = 0;
  for (let i = 0; i < values.length; ++i) {
    if (Number.isNaN(values[i])) {
      result[i] = NaN;
      continue;
    }
    sum = sum * weight + values[i];
    total = total * weight + 1;
    result[i] = sum / total;
  }
  return result;
}

/** The last value of a list that is one. */
function lastOf(values) {
  for (let i = values.length - 1; i >= 0; --i) if (!Number.isNaN(values[i])) return values[i];
  return NaN;
}
function firstOf(values) {
  return values.find((value) => !Number.isNaN(value)) ?? NaN;
}

/** "0.412", "1,234", "3.4e-6", "12.3M". */
function numberText(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size >= 1e15) return value.toExponential(1).replace('e+', 'e');
  for (const [unit, name] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M']]) {
    if (size >= unit) return `${trimmed((value / unit).toPrecision(3))}${name}`;
  }
  if (size >= 1000) return Math.round(value).toLocaleString('en-US');
  if (size >= 0.001) return trimmed(value.toPrecision(size >= 100 ? 4 : 3));
  return value.toExponential(1).replace('.0e', 'e');
}
function trimmed(text) {
  return text.includes('.') && !text.includes('e') ? text.replace(/\.?0+$/, '') : text;
}

/** "1h 2m 3s" */
function durationText(seconds) {
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  if (hours) return `${hours}h ${minutes}m`;
  return minutes ? `${minutes}m ${whole % 60}s` : `${whole % 60}s`;
}

/** An element: make('div', {class: 'tile', onclick: …}, 'text', child, …). */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children) if (child !== null && child !== undefined) element.append(child);
  return element;
}

const byId = (id) => document.getElementById(id);
