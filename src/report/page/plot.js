// Draws curves onto a canvas. It knows pixels, scales and colours, and nothing of runs.
// SPDX-License-Identifier: Apache-2.0

/** Round numbers that cut [low, high] into about `count` parts. */
function ticksOf(low, high, count) {
  const raw = (high - low) / Math.max(1, count);
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i) {
    ticks.push(Math.abs(i * step) < step * 1e-9 ? 0 : i * step);
  }
  return ticks;
}

/** The powers of ten in [low, high], with 2 and 5 between them where there are few. */
function logTicksOf(low, high) {
  const ticks = [];
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const every = Math.max(1, Math.ceil((last - first) / 5));
  for (let power = first; power <= last; power += every) {
    for (const factor of last - first <= 2 ? [1, 2, 5] : [1]) ticks.push(factor * 10 ** power);
  }
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

/** A scale from values to pixels. */
function scaleOf(domain, pixels, isLog) {
  const at = isLog ? (value) => Math.log10(value) : (value) => value;
  const low = at(domain[0]), span = at(domain[1]) - low || 1;
  const scale = (value) => pixels[0] + ((at(value) - low) / span) * (pixels[1] - pixels[0]);
  scale.inverse = (pixel) => {
    const value = low + ((pixel - pixels[0]) / (pixels[1] - pixels[0])) * span;
    return isLog ? 10 ** value : value;
  };
  return scale;
}

/**
 * The least and greatest value to show of `lists`, of the rows with xs in `zoom`. Where a few values
 * lie far from all others, they do not count: one bad step must not flatten a curve.
 */
function rangeOf(series, zoom) {
  const values = [];
  const take = (xs, list) => {
    if (!list) return;
    for (let i = 0; i < list.length; ++i) {
      if (Number.isNaN(list[i]) || (zoom && (xs[i] < zoom[0] || xs[i] > zoom[1]))) continue;
      values.push(list[i]);
    }
  };
  for (const one of series) {
    take(one.xs, one.low);
    take(one.xs, one.high);
    take(one.xs, one.raw);
    take(one.pointXs, one.points);
  }
  if (!values.length) return null;
  values.sort((a, b) => a - b);
  let low = values[0], high = values[values.length - 1];
  if (values.length >= 100) {
    const cut = Math.floor(values.length * 0.01);
    const inner = [values[cut], values[values.length - 1 - cut]];
    const span = inner[1] - inner[0], margin = span * 0.6;
    if (span > 0 && high - low > 3 * span) {
      low = Math.max(low, inner[0] - margin);
      high = Math.min(high, inner[1] + margin);
    }
  }
  return [low, high, values[0]];
}

/** A range with some room around it, such that nothing sticks to the frame. */
function roomy([low, high], isLog) {
  if (isLog) {
    const room = (high / low) ** 0.06;
    return [low / (room || 1.1), high * (room || 1.1)];
  }
  if (low === high) {
    const room = Math.abs(low) * 0.1 || 1;
    return low === 0 ? [0, 1] : [low - room, high + room];
  }
  const room = (high - low) * 0.07;
  // What is never negative is shown from zero on where that takes little room.
  const bottom = low >= 0 && low - room < 0 ? (low === 0 ? -room * 0.3 : 0) : low - room;
  return [bottom, high + room];
}

/** Calls `draw` with the rows that are in view, and one on each side. */
function rowsInView(xs, domain) {
  if (!xs.length) return [0, -1];
  let first = nearest(xs, domain[0]), last = nearest(xs, domain[1]);
  first = Math.max(0, first - 1);
  last = Math.min(xs.length - 1, last + 1);
  return [first, last];
}

/** A line through the values, with gaps where there are none. */
function traceLine(context, xs, values, x, y, [first, last]) {
  let isDown = false;
  context.beginPath();
  for (let i = first; i <= last; ++i) {
    // A metric that is logged every second line is a line all the same.
    if (Number.isNaN(values[i])) continue;
    const px = x(xs[i]), py = y(values[i]);
    if (!Number.isFinite(py)) {
      isDown = false;
      continue;
    }
    if (isDown) context.lineTo(px, py);
    else context.moveTo(px, py);
    isDown = true;
  }
  context.stroke();
}

/** The area between two lists. */
function fillBand(context, xs, low, high, x, y, [first, last]) {
  context.beginPath();
  const rows = [];
  for (let i = first; i <= last; ++i) {
    if (!Number.isNaN(low[i]) && Number.isFinite(y(low[i]))) rows.push(i);
  }
  rows.forEach((i, k) => context[k ? 'lineTo' : 'moveTo'](x(xs[i]), y(high[i])));
  rows.reverse().forEach((i) => context.lineTo(x(xs[i]), y(low[i])));
  context.closePath();
  context.fill();
}

function dot(context, px, py, radius) {
  context.beginPath();
  context.arc(px, py, radius, 0, 2 * Math.PI);
}

/** One curve: the spread, the raw values, the smoothed line, and circles of evaluations. */
function drawSeries(context, one, x, y, domain, ground) {
  const rows = rowsInView(one.xs, domain);
  context.setLineDash(one.dash || []);
  context.strokeStyle = context.fillStyle = one.color;
  context.lineJoin = 'round';
  const isSmoothed = one.values !== one.raw;
  if (one.low) {
    context.globalAlpha = 0.13;
    fillBand(context, one.xs, one.low, one.high, x, y, rows);
  }
  if (isSmoothed) {
    context.globalAlpha = 0.3;
    context.lineWidth = 1;
    traceLine(context, one.xs, one.raw, x, y, rows);
  }
  const few = rows[1] - rows[0] < 60;
  if (few || one.raw.length === 1) {
    context.globalAlpha = isSmoothed ? 0.45 : 0.9;
    for (let i = rows[0]; i <= rows[1]; ++i) {
      if (Number.isNaN(one.raw[i])) continue;
      dot(context, x(one.xs[i]), y(one.raw[i]), 2);
      context.fill();
    }
  }
  context.globalAlpha = 1;
  context.lineWidth = 1.8;
  traceLine(context, one.xs, one.values, x, y, rows);
  context.setLineDash([]);
  if (!one.points) return;
  context.lineWidth = 1.6;
  for (let i = 0; i < one.points.length; ++i) {
    if (Number.isNaN(one.points[i])) continue;
    dot(context, x(one.pointXs[i]), y(one.points[i]), 3.6);
    context.fillStyle = ground;
    context.fill();
    context.strokeStyle = one.color;
    context.stroke();
  }
}

/** Areas on top of one another, the first at the bottom. */
function drawStack(context, series, x, y, domain) {
  if (!series.length) return;
  const rows = rowsInView(series[0].xs, domain);
  let bottom = new Float64Array(series[0].xs.length);
  for (const one of series) {
    const top = bottom.map((value, i) => value + (one.values[i] || 0));
    context.fillStyle = one.color;
    context.globalAlpha = 0.78;
    fillBand(context, one.xs, bottom, top, x, y, rows);
    bottom = top;
  }
  context.globalAlpha = 1;
}

/** Grid, numbers at the axes, and what `paint` draws inside. Returns the scales. */
function drawFrame(context, size, domain, range, options, paint) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue('--soft').trim(), grid = style.getPropertyValue('--grid').trim();
  const ticks = options.isLog ? logTicksOf(range[0], range[1])
    : ticksOf(range[0], range[1], Math.max(2, Math.round(size.height / 48)));
  context.font = `11px ${style.getPropertyValue('--text')}`;
  const texts = ticks.map(numberText);
  const left = Math.max(26, ...texts.map((text) => Math.ceil(context.measureText(text).width) + 8));
  const frame = { left, right: size.width - 8, top: 6, bottom: size.height - 19 };
  const x = scaleOf(domain, [frame.left, frame.right]);
  const y = scaleOf(range, [frame.bottom, frame.top], options.isLog);
  context.fillStyle = ink;
  context.strokeStyle = grid;
  context.lineWidth = 1;
  context.textAlign = 'right';
  context.textBaseline = 'middle';
  ticks.forEach((tick, i) => {
    const py = Math.round(y(tick)) + 0.5;
    context.beginPath();
    context.moveTo(frame.left, py);
    context.lineTo(frame.right, py);
    context.stroke();
    context.fillText(texts[i], frame.left - 6, py);
  });
  context.textBaseline = 'alphabetic';
  const count = Math.max(2, Math.floor((frame.right - frame.left) / 75));
  for (const tick of ticksOf(domain[0], domain[1], count)) {
    if (options.isWhole && !Number.isInteger(tick)) continue;
    const text = numberText(tick), half = context.measureText(text).width / 2;
    const px = Math.min(Math.max(x(tick), frame.left - 4 + half), frame.right + 6 - half);
    context.textAlign = 'center';
    context.fillText(text, px, size.height - 4);
  }
  context.save();
  context.beginPath();
  context.rect(frame.left - 5, frame.top - 5, frame.right - frame.left + 12,
    frame.bottom - frame.top + 7);
  context.clip();
  paint(x, y);
  context.restore();
  if (options.note) {
    context.fillStyle = ink;
    context.textAlign = 'center';
    context.font = `12.5px ${style.getPropertyValue('--text')}`;
    context.fillText(options.note, (frame.left + frame.right) / 2,
      frame.top + (frame.bottom - frame.top) * 0.38);
  }
  return { frame, x, y };
}

/** The canvas's context, its size set to that of its box in the pixels of the screen. */
function contextOf(canvas) {
  const box = canvas.parentElement;
  const size = { width: box.clientWidth, height: box.clientHeight };
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(size.width * ratio), height = Math.round(size.height * ratio);
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, size.width, size.height);
  return { context, size };
}
