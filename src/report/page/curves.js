// Which metrics stand in which plot, and in which order. What nobody has thought of here is grouped
// by what stands before the first slash of its name.
// SPDX-License-Identifier: Apache-2.0

const PHASES = ['sync', 'rollout', 'reward', 'score', 'train', 'eval', 'save'];
const PHASE_NAMES = { sync: 'sending weights', rollout: 'sampling', reward: 'rewarding',
  score: 'scoring', train: 'training', eval: 'evaluating', save: 'saving' };

/** [group, [[title, names or a pattern] …]]: a plot for each, with those names that a run has. */
const PLOTS = [
  ['Reward', [
    ['Reward', ['reward']],
    ['Reward by function', /^rewards\/(.+)\/mean$/],
    ['Spread within a group', ['reward_std']],
    ['Groups with equal rewards', ['frac_reward_zero_std']],
    ['Spread by function', /^rewards\/(.+)\/std$/],
    ['Failures by function', /^rewards\/(.+)\/failures$/],
  ]],
  ['Completions', [
    ['Length', ['completions/mean_length', 'completions/min_length', 'completions/max_length']],
    ['Cut off', ['completions/clipped_ratio']],
    ['Length of those that ended', ['completions/mean_terminated_length',
      'completions/min_terminated_length', 'completions/max_terminated_length']],
    ['Turns', ['num_turns']],
  ]],
  ['Policy', [
    ['Distance from the reference (KL)', ['kl']],
    ['Entropy', ['entropy/mean', 'entropy/max', 'entropy/min', 'entropy/threshold']],
    ['Entropy by tokens', ['entropy']],
    ['Weight of the entropy', ['entropy_coef']],
    ['Clipped tokens', ['clip_ratio/region_mean', 'clip_ratio/low_mean', 'clip_ratio/high_mean']],
    ['Clipped tokens, extremes', ['clip_ratio/low_min', 'clip_ratio/high_max']],
    ['Clipped weights (CISPO)', ['cispo_clip_ratio']],
  ]],
  ['Sampler and trainer', [
    ['Difference of log-probabilities', ['train/sampler_logprob_max_diff',
      'train/sampler_logprob_mean_diff']],
    ['Age of the sampling weights', ['train/sampler_weight_age']],
    ['Completions masked as off-policy', ['off_policy_sequence_mask_ratio']],
    ['Difference of recomputed layers', ['train/recomputed_layer_max_diff']],
  ]],
  ['Learning', [
    ['Loss', ['loss', 'policy_loss']],
    ['Gradient norm', ['grad_norm']],
    ['Learning rate', ['learning_rate']],
    ['Token accuracy', ['mean_token_accuracy', 'token_acc']],
  ]],
  ['Speed', [
    ['Tokens a second', ['tokens_per_second']],
    ['Seconds a step', ['step_time']],
    ['Seconds a step, of the run', ['train_speed(s/it)']],
    ['Memory (GiB)', ['memory(GiB)']],
  ]],
];
/** What is no curve: it counts, and the axis says it. */
const COUNTS = new Set(['epoch', 'num_tokens', 'runtime', 'samples_per_second',
  'steps_per_second']);
const GROUP_NAMES = { rollout_correction: 'Correction of the sampler’s distribution',
  sync: 'Updates of the servers', time: 'Time', profiling: 'Profiling', tools: 'Tools',
  completions: 'Completions, further', rewards: 'Rewards, further', train: 'Training, further' };

/** All names of metrics of all runs, those of evaluations too. */
function metricNames() {
  const names = new Set();
  for (const run of state.runs) {
    for (const table of [run.curves, run.evaluations]) {
      for (const name of table.columns.keys()) if (!COUNTS.has(name)) names.add(name);
    }
  }
  return names;
}

/** "soft_overlong" and "SoftOverlong", "accuracy" and "MathAccuracy" are two names of one function. */
function isAlias(a, b) {
  const plain = (name) => name.split('/')[1].toLowerCase().replace(/[_\s]/g, '');
  const [x, y] = [plain(a), plain(b)];
  return x === y || x.includes(y) || y.includes(x);
}
/** Of two names of one function with the same values the one that the flag has stays. */
function withoutAliases(names) {
  const values = (name) => JSON.stringify(state.runs.map((run) =>
    [...(run.curves.columns.get(name)?.mean ?? [])]));
  const kept = [];
  const isFlag = (name) => name.split('/')[1] === name.split('/')[1].toLowerCase();
  for (const name of [...names].sort((a, b) => isFlag(b) - isFlag(a))) {
    if (!kept.some((other) => isAlias(other, name) && values(other) === values(name))) {
      kept.push(name);
    }
  }
  return kept.sort();
}

/** What a curve of several in a plot is called: what their names do not share. */
function shortNames(keys) {
  if (keys.length < 2) return keys;
  const parts = keys.map((key) => key.split('/'));
  const sharedStart = parts.every((p) => p[0] === parts[0][0]) ? 1 : 0;
  const sharedEnd = parts.every((p) => p.length > 2 && p.at(-1) === parts[0].at(-1)) ? 1 : 0;
  return parts.map((p) => p.slice(sharedStart, p.length - sharedEnd).join('/') || p.join('/'));
}

/** The curves of these names of all runs that are shown. */
function seriesOf(keys) {
  const names = shortNames(keys), series = [];
  const isAlone = state.runs.length === 1;
  for (const run of shownRuns()) {
    keys.forEach((key, k) => {
      const column = run.curves.columns.get(key), points = run.evaluations.columns.get(key);
      if (!column && !points) return;
      series.push({
        key, run: run.name, name: isAlone ? names[k] : run.name,
        colorIndex: isAlone ? k : run.index,
        xs: axisOf(run, run.curves),
        raw: column?.mean ?? new Float64Array(run.curves.steps.length).fill(NaN),
        low: column?.low, high: column?.high, odd: run.curves.odd[key],
        pointXs: axisOf(run, run.evaluations), points: points?.mean,
      });
    });
  }
  return series;
}

/** The plots of these names: one of all of one run, one for each name of several. */
function plotsOf(title, keys) {
  if (state.runs.length === 1 || keys.length === 1) {
    const subtitle = keys.length === 1 ? keys[0] : `${keys[0].split('/')[0]}/…`;
    return [{ title, key: keys.join(' '), subtitle, series: () => seriesOf(keys) }];
  }
  const names = shortNames(keys);
  return keys.map((key, i) => ({ title: `${title}: ${names[i]}`, key,
    series: () => seriesOf([key]) }));
}

/** The phases of a step on top of one another. */
function timePlots(names) {
  const keys = PHASES.map((phase) => `time/${phase}`).filter((name) => names.delete(name));
  if (!keys.length) return [];
  const runs = state.runs.filter((run) => keys.some((key) => run.curves.columns.has(key)));
  return runs.map((run) => ({
    title: state.runs.length > 1 ? `Time of a step: ${run.name}` : 'Time of a step',
    key: 'time/*', subtitle: 'seconds, by phase', isStacked: true,
    series: () => (state.hidden.has(run.index) ? [] : keys).flatMap((key) => {
      const column = run.curves.columns.get(key);
      if (!column) return [];
      const known = column.mean.filter((value) => !Number.isNaN(value));
      const mean = known.reduce((sum, value) => sum + value, 0) / (known.length || 1);
      const phase = key.slice(5);
      // A phase keeps its colour whichever others there are.
      return [{ key, run: run.name, name: PHASE_NAMES[phase], mean,
        colorIndex: [4, 0, 2, 3, 1, 5, 7][PHASES.indexOf(phase)],
        xs: axisOf(run, run.curves), raw: column.mean }];
    }).filter((one) => one.mean > 0),
  }));
}

/** [[group, plots] …] of everything that was logged. */
function groupsOf() {
  const names = metricNames(), groups = new Map();
  const add = (group, plots) => {
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(...plots);
  };
  for (const [group, plots] of PLOTS) {
    for (const [title, wanted] of plots) {
      let keys = wanted instanceof RegExp ? [...names].filter((name) => wanted.test(name))
        : wanted.filter((name) => names.has(name));
      keys.forEach((name) => names.delete(name));
      if (wanted instanceof RegExp) keys = withoutAliases(keys);
      if (keys.length) add(group, plotsOf(title, keys));
    }
    if (group === 'Speed') add(group, timePlots(names));
  }
  const rest = [...names].sort();
  for (const name of rest.filter((one) => one.includes('/'))) {
    const prefix = name.split('/')[0];
    add(GROUP_NAMES[prefix] ?? prefix, plotsOf(name.slice(prefix.length + 1), [name]));
  }
  for (const name of rest.filter((one) => !one.includes('/'))) {
    add('Further', plotsOf(name, [name]));
  }
  return [...groups].filter(([, plots]) => plots.length);
}

let shownGroups = '';
/** Makes the cards anew where there are other metrics than before, else draws what there is. */
function showCurves() {
  const section = byId('curves'), groups = groupsOf();
  const shape = JSON.stringify(groups.map(([name, plots]) => [name, plots.map((p) => p.key)]))
    + state.runs.length + state.runs.map((run) => run.lengths.steps.length > 0);
  if (shape === shownGroups) return redraw();
  shownGroups = shape;
  charts.length = 0;
  section.replaceChildren();
  if (!groups.length) {
    section.append(make('div', { class: 'card empty' },
      make('strong', {}, 'No step has been logged yet'),
      state.isLive ? 'The curves come with the first line of logging.jsonl.'
        : 'logging.jsonl holds no line with a step.'));
    return;
  }
  for (const [name, plots] of groups) {
    const cards = plots.map((plot) => new Chart(plot).card);
    // What a run is for has more room.
    if (name === 'Reward') cards[0].classList.add('first');
    if (name === 'Completions') cards.push(...histogramCards());
    section.append(make('div', { class: 'group' }, make('h2', {}, name),
      make('div', { class: 'charts' }, ...cards)));
  }
  filterCharts();
}

function filterCharts() {
  const wanted = state.filter.trim().toLowerCase();
  for (const group of byId('curves').querySelectorAll('.group')) {
    let count = 0;
    for (const card of group.querySelectorAll('.card')) {
      const text = `${card.dataset.chart} ${card.querySelector('h3').textContent}`.toLowerCase();
      card.hidden = !text.includes(wanted);
      count += !card.hidden;
    }
    group.hidden = !count;
  }
  redraw();
}
