// How long completions are: a picture of all steps, and the first against the last tenth.
// SPDX-License-Identifier: Apache-2.0

/** Lengths are drawn like curves, but for the picture itself. */
class LengthMap extends Chart {
  constructor(run) {
    super({ title: state.runs.length > 1 ? `Lengths: ${run.name}` : 'Lengths over the steps',
      key: 'completions/lengths', subtitle: `${run.length_unit} of a completion`, series: () => [],
      isStacked: true });
    this.run = run;
  }
  writeLegend() {
    this.legend.replaceChildren(make('span', {}, 'darker: more completions'));
  }
  description() { return 'How many completions have which length, over the steps'; }
  draw() {
    const { lengths } = state.runs[this.run.index];
    const { context, size } = contextOf(this.canvas);
    const bins = Math.max(1, ...lengths.counts.map((counts) => counts.length));
    const first = lengths.steps[0]?.[0] ?? 0, last = lengths.steps.at(-1)?.[1] ?? 1;
    const domain = state.zoom && state.axis === 'step' ? state.zoom : [first, last + 1];
    const color = colorOf(0);
    this.canvas.setAttribute('aria-label', this.description());
    const drawn = drawFrame(context, size, domain, [0, bins * lengths.width],
      { isWhole: true }, (x, y) => {
        context.fillStyle = color;
        lengths.counts.forEach((counts, i) => {
          const [from, to] = lengths.steps[i];
          const end = lengths.steps[i + 1]?.[0] ?? to + 1;
          const sum = counts.reduce((a, b) => a + b, 0) || 1;
          counts.forEach((count, bin) => {
            if (!count) return;
            // Few completions of a length are seen too.
            context.globalAlpha = 0.08 + 0.92 * Math.sqrt(count / sum);
            const top = y((bin + 1) * lengths.width);
            context.fillRect(x(from), top, Math.max(1, x(end) - x(from) + 0.5),
              y(bin * lengths.width) - top + 0.5);
          });
        });
        context.globalAlpha = 1;
      });
    Object.assign(this, drawn, { domain });
  }
  tipRows(at) {
    const { lengths } = state.runs[this.run.index];
    let column = lengths.steps.findIndex(([, to]) => at <= to + 1);
    if (column < 0) column = lengths.steps.length - 1;
    if (column < 0) return { rows: [], place: null };
    const counts = lengths.counts[column], sum = counts.reduce((a, b) => a + b, 0);
    const rows = counts.map((count, bin) => [count, bin]).filter(([count]) => count > 0)
      .sort((a, b) => b[0] - a[0]).slice(0, 6).sort((a, b) => a[1] - b[1])
      .map(([count, bin]) => [{ color: colorOf(0), name: rangeText(lengths.width, bin) }, count,
        `${Math.round((100 * count) / sum)}%`]);
    return { rows, place: Math.max(lengths.steps[column][0], 0) };
  }
}

function rangeText(width, bin) {
  return width === 1 ? String(bin) : `${bin * width} to ${(bin + 1) * width - 1}`;
}

/** The shares of lengths among the first and the last tenth of the steps. */
class LengthBars extends Chart {
  constructor(run) {
    super({ title: state.runs.length > 1 ? `Lengths: ${run.name}` : 'Lengths, first and last',
      key: 'completions/lengths first last', subtitle: 'share of completions', isStacked: true,
      isAlone: true, series: () => [] });
    this.run = run;
  }
  shares() {
    const { counts, steps } = state.runs[this.run.index].lengths;
    const part = Math.max(1, Math.round(counts.length / 10));
    const share = (columns) => {
      const sums = [];
      columns.forEach((column) => column.forEach((count, bin) => {
        sums[bin] = (sums[bin] ?? 0) + count;
      }));
      const all = sums.reduce((a, b) => a + b, 0) || 1;
      return sums.map((sum) => sum / all);
    };
    const name = (columns) => `steps ${columns[0]?.[0] ?? 0} to ${columns.at(-1)?.[1] ?? 0}`;
    return [[name(steps.slice(0, part)), share(counts.slice(0, part)), 7],
      [name(steps.slice(-part)), share(counts.slice(-part)), 0]];
  }
  writeLegend() {
    this.legend.replaceChildren(...this.shares().map(([name, , color]) =>
      make('span', { class: 'item' }, make('i', { style: `border-color:${colorOf(color)}` }),
        make('span', {}, name))));
  }
  description() { return 'Shares of lengths among the first and the last completions'; }
  draw() {
    const { context, size } = contextOf(this.canvas), shares = this.shares();
    const { width } = state.runs[this.run.index].lengths;
    const bins = Math.max(1, ...shares.map(([, share]) => share.length));
    const most = Math.max(0.01, ...shares.flatMap(([, share]) => share));
    this.canvas.setAttribute('aria-label', this.description());
    const drawn = drawFrame(context, size, [0, bins * width], [0, most * 1.05], {}, (x, y) => {
      shares.forEach(([, share, color], which) => {
        context.fillStyle = colorOf(color);
        context.globalAlpha = which ? 0.75 : 0.4;
        share.forEach((value, bin) => {
          const left = x(bin * width), right = x((bin + 1) * width), gap = which ? 0.22 : 0.04;
          const inset = (right - left) * gap;
          context.fillRect(left + inset, y(value), Math.max(1, right - left - 2 * inset),
            y(0) - y(value));
        });
      });
      context.globalAlpha = 1;
    });
    Object.assign(this, drawn, { domain: [0, bins * width] });
  }
  move(event) { if (this.frame) this.writeTip(this.x.inverse(this.pixelOf(event))); }
  press() {}
  writeTip(at) {
    const { width } = state.runs[this.run.index].lengths, bin = Math.floor(at / width);
    const rows = this.shares().map(([name, share, color]) => make('tr', {},
      make('td', {}, make('i', { class: 'swatch', style: `background:${colorOf(color)}` })),
      make('td', {}, name),
      make('td', { class: 'number' }, `${((share[bin] ?? 0) * 100).toFixed(1)}%`)));
    this.tip.replaceChildren(make('div', { class: 'at' },
      `${rangeText(width, bin)} ${this.run.length_unit}`), make('table', {}, ...rows));
    const px = this.x(at), room = this.canvas.clientWidth;
    this.tip.style.display = 'block';
    const left = px + 14 + this.tip.offsetWidth < room ? px + 14 : px - 14 - this.tip.offsetWidth;
    Object.assign(this.tip.style, { left: `${Math.max(0, left)}px`, top: '4px' });
  }
}

function histogramCards() {
  const runs = state.runs.filter((run) => run.lengths.steps.length);
  return runs.flatMap((run) => [new LengthMap(run).card,
    ...(state.runs.length === 1 ? [new LengthBars(run).card] : [])]);
}
