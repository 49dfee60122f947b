// A card with a plot: legend, crosshair, what stands under the pointer, looking closer, keys.
// SPDX-License-Identifier: Apache-2.0

/** All charts, so that they look at the same steps. */
const charts = [];

/** Charts are drawn when they come into view, and again when something has changed. */
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    entry.target.chart.isVisible = entry.isIntersecting;
    entry.target.chart.drawIfNeeded();
  }
}, { rootMargin: '200px' });

/** Whether a frame that draws has been asked for. */
let isDrawing = false;
function redraw() {
  for (const chart of charts) chart.isStale = true;
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    for (const chart of charts) chart.drawIfNeeded();
  });
}

function zoomTo(range) {
  state.zoom = range;
  byId('reset').hidden = !range;
  redraw();
}

/** The steps that all runs together have. */
function wholeDomain() {
  let low = Infinity, high = -Infinity;
  for (const run of shownRuns()) {
    for (const table of [run.curves, run.evaluations]) {
      const xs = axisOf(run, table);
      if (!xs.length) continue;
      low = Math.min(low, firstOf(xs));
      high = Math.max(high, lastOf(xs));
    }
  }
  if (!(high >= low)) return [0, 1];
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

class Chart {
  /**
   * `spec`: title, key (the name below it), series() → what to draw, isStacked, isLog,
   * format(value).
   */
  constructor(spec) {
    this.spec = spec;
    this.isLog = false;
    this.isVisible = false;
    this.isStale = true;
    this.off = new Set();
    this.cursor = null;
    this.legend = make('div', { class: 'legend' });
    this.canvas = make('canvas', { tabindex: 0, role: 'img' });
    this.cross = make('div', { class: 'cross' });
    this.area = make('div', { class: 'area' });
    this.tip = make('div', { class: 'tip', role: 'status' });
    this.logButton = make('button', { type: 'button', title: 'Logarithmic scale',
      'aria-pressed': 'false', onclick: () => this.setLog(!this.isLog) }, 'log');
    this.wideButton = make('button', { type: 'button', title: 'Over the whole width',
      'aria-label': `${spec.title} over the whole width`, 'aria-pressed': 'false',
      onclick: () => this.setWide() }, '⤢');
    this.card = make('article', { class: 'card chart', 'data-chart': spec.key },
      make('header', {}, make('h3', { title: spec.title }, spec.title),
        make('span', { class: 'key', title: spec.key }, spec.subtitle ?? spec.key),
        spec.isStacked ? null : this.logButton, this.wideButton),
      this.legend, make('div', { class: 'box' }, this.canvas, this.area, this.cross, this.tip));
    this.card.chart = this;
    this.listen();
    charts.push(this);
    watcher.observe(this.card);
  }

  setLog(isLog) {
    this.isLog = isLog;
    this.logButton.setAttribute('aria-pressed', String(isLog));
    this.isStale = true;
    this.drawIfNeeded();
  }
  setWide() {
    const isWide = this.card.classList.toggle('wide');
    this.wideButton.setAttribute('aria-pressed', String(isWide));
    this.isStale = true;
    this.drawIfNeeded();
  }
  toggle(name) {
    if (!this.off.delete(name)) this.off.add(name);
    this.isStale = true;
    this.drawIfNeeded();
  }

  /** The curves with their smoothed values. */
  series() {
    return this.spec.series().map((one, index) => {
      const color = one.color ?? colorOf(one.colorIndex ?? index);
      return { ...one, color, values: smooth(one.raw, this.spec.isRaw ? 0 : state.smoothing) };
    });
  }

  drawIfNeeded() {
    if (!this.isVisible || !this.isStale || !this.card.isConnected) return;
    this.isStale = false;
    this.all = this.series();
    this.shown = this.all.filter((one) => !this.off.has(one.name));
    this.writeLegend();
    this.draw();
  }

  draw() {
    const { context, size } = contextOf(this.canvas);
    const domain = state.zoom ?? wholeDomain();
    const ground = getComputedStyle(this.card).backgroundColor;
    let range = this.spec.isStacked ? this.stackRange(domain) : rangeOf(this.shown, domain);
    this.canvas.setAttribute('aria-label', this.description());
    if (!range) range = [0, 1, 0.5];
    const isLog = this.isLog && range[2] > 0;
    if (isLog) range[0] = Math.max(range[0], range[2]);
    const isFlat = !this.spec.isStacked && range[2] === range[1] && this.shown.length > 0;
    const note = isFlat ? `${numberText(range[1])} at every step` : '';
    const options = { isLog, isWhole: state.axis === 'step', note };
    const drawn = drawFrame(context, size, domain,
      this.spec.isStacked ? [0, range[1] * 1.05 || 1] : roomy(range, isLog), options, (x, y) => {
        if (this.spec.isStacked) drawStack(context, this.shown, x, y, domain);
        else for (const one of this.shown) drawSeries(context, one, x, y, domain, ground);
      });
    Object.assign(this, drawn, { domain });
  }

  stackRange(domain) {
    let most = 0;
    if (!this.shown.length) return null;
    const { xs } = this.shown[0];
    for (let i = 0; i < xs.length; ++i) {
      if (xs[i] < domain[0] || xs[i] > domain[1]) continue;
      let sum = 0;
      for (const one of this.shown) sum += one.values[i] || 0;
      most = Math.max(most, sum);
    }
    return [0, most, 0];
  }

  /** What a person who does not see the picture is told. */
  description() {
    const parts = this.all.map((one) =>
      `${one.name} from ${numberText(firstOf(one.raw))} to ${numberText(lastOf(one.raw))}`);
    return `${this.spec.title}: ${parts.join('; ')}`;
  }

  writeLegend() {
    const total = this.spec.isStacked
      ? this.all.reduce((sum, one) => sum + (one.mean || 0), 0) : 0;
    this.legend.replaceChildren(...this.all.map((one) => {
      const last = this.spec.isStacked ? one.mean : lastOf(one.raw);
      const share = total > 0 ? ` ${Math.round((100 * one.mean) / total)}%` : '';
      const swatch = make('i', { style: `border-color:${one.color};${
        one.dash ? 'border-top-style:dashed' : ''}` });
      const odd = one.odd ? make('span', { class: 'odd' }, `${one.odd} not finite`) : null;
      const isOff = this.off.has(one.name);
      return make('button', { type: 'button', class: isOff ? 'item off' : 'item',
        title: `${one.name}: show or hide`, 'aria-pressed': String(!isOff), 'data-key': one.key,
        'data-run': one.run, 'data-last': Number.isNaN(last) ? null : last,
        onclick: () => this.toggle(one.name) },
      swatch, make('span', {}, this.all.length === 1 ? 'last' : one.name), make('b', {}, numberText(last) + share), odd);
    }));
  }

  // The pointer and the keys.

  listen() {
    const { canvas } = this;
    canvas.addEventListener('pointerdown', (event) => this.press(event));
    canvas.addEventListener('pointermove', (event) => this.move(event));
    canvas.addEventListener('pointerup', (event) => this.release(event));
    canvas.addEventListener('pointercancel', () => this.cancelArea());
    canvas.addEventListener('pointerleave', () => { if (!this.pressed) hideCrosses(); });
    canvas.addEventListener('dblclick', () => zoomTo(null));
    canvas.addEventListener('keydown', (event) => this.key(event));
    canvas.addEventListener('blur', hideCrosses);
  }

  pixelOf(event) {
    const px = event.clientX - this.canvas.getBoundingClientRect().left;
    return Math.min(Math.max(px, this.frame.left), this.frame.right);
  }
  press(event) {
    if (event.button !== 0 || !this.frame) return;
    this.pressed = this.pixelOf(event);
    this.canvas.setPointerCapture(event.pointerId);
  }
  move(event) {
    if (!this.frame) return;
    const px = this.pixelOf(event);
    if (this.pressed !== undefined && Math.abs(px - this.pressed) > 4) {
      const [from, to] = [Math.min(px, this.pressed), Math.max(px, this.pressed)];
      Object.assign(this.area.style, { display: 'block', left: `${from}px`,
        width: `${to - from}px`, top: `${this.frame.top}px`,
        height: `${this.frame.bottom - this.frame.top}px` });
    }
    this.point(this.x.inverse(px));
  }
  release(event) {
    const from = this.pressed;
    this.cancelArea();
    if (from === undefined) return;
    const to = this.pixelOf(event);
    if (Math.abs(to - from) < 5) return;
    zoomTo([from, to].sort((a, b) => a - b).map((px) => this.x.inverse(px)));
    hideCrosses();
  }
  cancelArea() {
    this.pressed = undefined;
    this.area.style.display = 'none';
  }

  key(event) {
    if (!this.frame) return;
    const xs = this.shown[0]?.xs ?? [];
    const row = this.cursor === null ? xs.length - 1 : nearest(xs, this.cursor);
    const hop = event.shiftKey ? 10 : 1;
    const goals = { ArrowLeft: row - hop, ArrowRight: row + hop, Home: 0, End: xs.length - 1 };
    if (event.key in goals && xs.length) {
      event.preventDefault();
      this.point(xs[Math.min(Math.max(goals[event.key], 0), xs.length - 1)]);
    } else if (event.key === '+' || event.key === '=' || event.key === '-') {
      const [low, high] = this.domain, factor = event.key === '-' ? 2 : 0.5;
      const middle = this.cursor ?? (low + high) / 2;
      const whole = wholeDomain();
      const range = [Math.max(whole[0], middle - (middle - low) * factor),
        Math.min(whole[1], middle + (high - middle) * factor)];
      zoomTo(range[0] <= whole[0] && range[1] >= whole[1] ? null : range);
    }
  }

  /** Shows what the curves are at `at`, and a line there in all charts. */
  point(at) {
    this.cursor = at;
    for (const chart of charts) {
      if (!chart.frame || !chart.isVisible || chart.spec.isAlone) continue;
      const px = chart.x(at);
      const isInside = px >= chart.frame.left - 1 && px <= chart.frame.right + 1;
      Object.assign(chart.cross.style, { display: isInside ? 'block' : 'none', left: `${px}px`,
        top: `${chart.frame.top}px`, height: `${chart.frame.bottom - chart.frame.top}px` });
      if (chart !== this) chart.tip.style.display = 'none';
    }
    this.writeTip(at);
  }

  tipRows(at) {
    const rows = [];
    let sum = 0, place = null;
    for (const one of this.shown) {
      const row = nearest(one.xs, at);
      if (row < 0) continue;
      place ??= one.xs[row];
      const value = one.raw[row];
      sum += value || 0;
      const more = one.low && one.high[row] > one.low[row]
        ? `${numberText(one.low[row])} … ${numberText(one.high[row])}`
        : one.values !== one.raw ? `≈ ${numberText(one.values[row])}` : '';
      rows.push([one, value, more]);
      if (!one.points || !one.points.length) continue;
      const mark = nearest(one.pointXs, at);
      const isNear = Math.abs(this.x(one.pointXs[mark]) - this.x(at)) < 12;
      if (isNear) rows.push([one, one.points[mark], 'evaluation']);
    }
    if (this.spec.isStacked && rows.length) rows.push([null, sum, 'all together']);
    return { rows, place };
  }

  writeTip(at) {
    const { rows, place } = this.tipRows(at);
    if (place === null) return;
    const body = rows.map(([one, value, more]) => make('tr', {},
      make('td', {}, one ? make('i', { class: 'swatch', style: `background:${one.color}` }) : ''),
      make('td', {}, one ? one.name : 'sum'),
      make('td', { class: 'number' }, numberText(value)), make('td', { class: 'more' }, more)));
    const unit = state.axis === 'tokens' ? 'tokens' : 'step';
    this.tip.replaceChildren(
      make('div', { class: 'at' }, unit === 'step' ? `step ${Math.round(place)}`
        : `${numberText(place)} tokens`), make('table', {}, ...body));
    this.tip.style.display = 'block';
    const px = this.x(place), width = this.tip.offsetWidth, room = this.canvas.clientWidth;
    const left = px + 14 + width < room ? px + 14 : Math.max(0, px - 14 - width);
    Object.assign(this.tip.style, { left: `${Math.min(left, Math.max(0, room - width))}px`,
      top: '4px' });
  }
}

function hideCrosses() {
  for (const chart of charts) {
    chart.cross.style.display = chart.tip.style.display = 'none';
  }
}
