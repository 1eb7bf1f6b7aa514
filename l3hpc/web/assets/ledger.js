// The results tables: sorting, filtering, comparing and learning curves of the rows in #data.
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const $ = id => document.getElementById(id);
const colours = matchMedia('(prefers-color-scheme: dark)').matches
  ? ['#8ab4f8','#f28b82','#81c995','#d7aefb','#fdc069','#4dd0e1','#f48fb1','#bdc1c6']
  : ['#0b57d0','#c5221f','#188038','#a142f4','#e37400','#00838f','#ad1457','#5f6368'];
const view = {tab: 0, sort: null, down: false, filter: '', all: false, metric: '', log: false,
              picked: new Set()};
const el = (name, props, ...inside) => {
  const node = Object.assign(document.createElement(name), props || {});
  node.append(...inside.filter(item => item !== null && item !== undefined));
  return node;
};
// A long name of an option wraps behind its dots and underscores.
const parts = name => name.split(/(?<=[._])/).flatMap(part => [part, el('wbr')]);
const show = value => value === null ? '–' : value === true ? 'yes' : value === false ? 'no'
  : typeof value !== 'number' ? value : Number.isInteger(value) ? String(value)
  : Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4 ? value.toFixed(4)
  : String(Number(value.toPrecision(4)));
const number = value => typeof value === 'number';
const tab = () => data.tabs[view.tab];
const key = row => tab().key.map(index => show(row.cells[index])).join(' ');
const end = (text, size) => text.length <= size ? text : '…' + text.slice(1 - size);

const RUN = -1;  // stands for the names of rows where a number stands for a column

// The columns behind the name: swept options first, then the ranking.
function columns(rows) {
  const every = tab().columns.map((column, index) => index);
  if (view.all) return [...tab().swept, ...every.filter(index => !tab().swept.includes(index))];
  const differs = index => rows.some(row => row.cells[index] !== rows[0].cells[index]);
  const first = [...tab().swept.filter(differs), tab().rank];
  return [...first, ...every.filter(index => !first.includes(index) && !tab().key.includes(index)
    && differs(index))];
}

function matches(row) {
  const words = view.filter.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return true;
  row.text = row.text || [row.name, ...row.cells.map(show), row.note, ...row.marks]
    .join(' ').toLowerCase();
  return words.every(word => row.text.includes(word));
}

function ordered(rows) {
  const column = view.sort === null ? tab().rank : view.sort;
  const down = view.sort === null ? tab().best === 'max' : view.down;
  const value = row => column === RUN ? row.name : row.cells[column];
  const missing = row => value(row) === null
    || ['NaN', 'Infinity', '-Infinity'].includes(value(row));
  return rows.slice().sort((one, other) => {
    if (missing(one) || missing(other)) return missing(one) - missing(other);
    const a = value(one), b = value(other);
    const by = number(a) && number(b) ? a - b : String(a).localeCompare(String(b));
    return down ? -by : by;
  });
}

function drawTable() {
  const every = tab().rows, rows = ordered(every.filter(matches)), list = columns(every);
  const head = el('tr', {});
  for (const index of [RUN, ...list]) {
    const on = view.sort === index || (view.sort === null && index === tab().rank);
    const down = view.sort === null ? tab().best === 'max' : view.down;
    const title = el('button', {type: 'button', id: 'sort' + index},
                     ...parts(index === RUN ? 'Run' : tab().columns[index][0]),
                     on ? (down ? ' ▼' : ' ▲') : '');
    title.onclick = () => {
      view.down = on ? !down : index !== RUN && tab().columns[index][2] === 'max';
      view.sort = index;
      drawTable();
      $('sort' + index).focus();
    };
    const cell = el('th', {scope: 'col', className: index === RUN ? 'run' : ''}, title);
    if (on) cell.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    head.append(cell);
    if (index === tab().rank) head.append(el('th', {scope: 'col'}, 'State',
                                                 el('span', {className: 'wide'}, ', note')));
  }
  const body = document.createDocumentFragment();
  for (const row of rows) {
    const box = el('input', {type: 'checkbox', checked: view.picked.has(row)});
    box.setAttribute('aria-label', 'compare ' + row.name);
    const state = el('td', {className: 't state', title: row.note});
    for (const mark of row.marks) state.append(el('span', {className: 'mark ' + mark}, mark));
    if (row.note) state.append(el('span', {className: 'note'}, row.note));
    const line = el('tr', {className: (row.best ? 'best ' : '') + (box.checked ? 'pick' : '')},
      el('td', {className: 'run', title: key(row)},
         el('label', {}, box, el('span', {title: row.best ? 'best' : ''}, row.best ? '★ ' : ''),
            row.name)));
    // on a phone, a note in its column would have to be scrolled sideways: it has a line of its own
    const below = row.note ? el('tr', {className: 'below ' + line.className},
      el('td', {colSpan: list.length + 2}, el('div', {}, row.note))) : null;
    box.onchange = () => {
      box.checked ? view.picked.add(row) : view.picked.delete(row);
      for (const each of [line, below]) each?.classList.toggle('pick', box.checked);
      drawChosen();
    };
    for (const index of list) {
      const value = row.cells[index], text = show(value);
      line.append(el('td', {className: number(value) ? 'n' : 't',
                            title: text.length > 30 ? text : ''}, end(text, 60)));
      if (index === tab().rank) line.append(state);
    }
    if (below) line.classList.add('noted');
    body.append(...[line, below].filter(Boolean));
  }
  $('head').replaceChildren(head);
  $('body').replaceChildren(body);
  $('count').textContent = (rows.length === every.length ? '' : rows.length + ' of ')
    + every.length + (every.length === 1 ? ' row, ' : ' rows, ') + (list.length + 1)
    + ' of ' + (tab().columns.length + 1) + ' columns'
    + (rows.some(row => row.best) ? '; ★ the best of the rows that can be compared' : '');
}

function chosen() {
  const own = [...view.picked].filter(row => tab().rows.includes(row));  // as they were ticked
  return own.length ? own : ordered(tab().rows).slice(0, 4);
}

function drawChosen() {
  const count = [...view.picked].filter(row => tab().rows.includes(row)).length;
  $('chosen').hidden = !count;
  document.body.classList.toggle('picking', count > 0);
  $('ticked').textContent = count + ' ticked';
  drawCurves();
  drawCompare();
}

// The row whose epochs a row shows: its own, or those of its student (of a classifier, say).
function trained(row) {
  return row.curves.epoch || !row.student ? row : data.tabs[row.student[0]].rows[row.student[1]];
}

// Multiples of 1, 2 or 5 times a power of ten: about `count` of them, at least `least` apart.
function ticks(low, high, count, least = 0) {
  const rough = Math.max((high - low) / count, least);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(times => times * power >= rough * (1 - 1e-9));
  const list = [];
  for (let times = Math.ceil(low / step - 1e-9); times * step <= high + step * 1e-9; times++)
    list.push(Number((times * step).toPrecision(12)));
  return list;
}

// The same for a logarithmic axis: 1, 2 and 5 of each decade, or some of the decades.
function logTicks(low, high) {
  const decades = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++)
    decades.push(Number(('1e' + power)));
  const within = list => list.filter(value => value >= low * 0.999 && value <= high * 1.001);
  const fine = within(decades.flatMap(value =>
    [1, 2, 5].map(times => Number((times * value).toPrecision(12)))));
  if (fine.length < 3) return ticks(low, high, 4);
  if (fine.length < 8) return fine;
  const every = Math.ceil(decades.length / 7);
  return within(decades.filter((value, place) => place % every === 0));
}

// the time here, in the form of the other pages
function moment(seconds) {
  const time = new Date(seconds * 1000), two = value => String(value).padStart(2, '0');
  return [time.getFullYear(), two(time.getMonth() + 1), two(time.getDate())].join('-') + ' '
    + [time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join(':');
}

function labels(list) {
  const digits = value => (String(value).split('.')[1] || '').length;
  const most = Math.max(0, ...list.map(digits));
  return list.map(value => value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e6)
    ? value.toExponential() : view.log ? String(value) : value.toFixed(most));
}

function svg(kind, props, text) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', kind);
  for (const [key, value] of Object.entries(props)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function drawCurves() {
  const wanted = chosen(), rows = [...new Set(wanted.map(trained))].filter(row => row.curves.epoch);
  const names = [...new Set(rows.flatMap(row => Object.keys(row.curves)))]
    .filter(metric => metric !== 'epoch').sort();
  $('curves').hidden = !wanted.length;
  $('frame').hidden = !names.length;
  const without = wanted.filter(row => !trained(row).curves.epoch).map(row => row.name);
  $('without').textContent = without.length ? 'No epochs: ' + without.join(', ') : '';
  if (!names.length) { $('legend').replaceChildren(); $('metric').replaceChildren(); return; }
  if (!names.includes(view.metric))
    view.metric = names.includes('validation_loss') ? 'validation_loss' : names[0];
  $('metric').replaceChildren(...names.map(metric => el('option', {
    value: metric, selected: metric === view.metric}, metric.replaceAll('_', ' '))));
  // journals count epochs from 0, everything that a person reads counts from 1
  drawPlot(rows.map(row => (row.curves[view.metric] || []).map((value, place) =>
    [row.curves.epoch[place] + 1, value]).filter(point => point[1] !== null
      && (!view.log || point[1] > 0))));
  $('plot').setAttribute('aria-label', view.metric + ' per epoch of ' + rows.length
    + (rows.length === 1 ? ' run' : ' runs'));
  // a note of all of them once; of one alone, the table has it
  const shared = rows.every(row => row.note === rows[0].note) ? rows[0].note : '';
  $('legend').replaceChildren(...rows.map((row, place) => {
    const line = el('i', {}), users = wanted.filter(each => each !== row && trained(each) === row);
    line.style.background = colours[place % colours.length];
    return el('span', {}, line, row.name
      + (users.length ? ': the student of ' + users.map(each => each.name).join(', ') : '')
      + (row.note && !shared ? ' (' + row.note + ')' : ''));
  }));
  if (shared && rows.length > 1) $('legend').append(el('span', {className: 'note'}, 'all: ' + shared));
}

function drawPlot(lines) {
  // as many units as the plot has pixels, so that text is never smaller on a narrow screen
  const width = Math.max($('frame').clientWidth, 260), height = width < 500 ? 250 : 300;
  const left = 58, right = width - 14, top = 12, bottom = height - 42;
  const points = lines.flat();
  const low = list => list.reduce((a, b) => Math.min(a, b), Infinity);
  const high = list => list.reduce((a, b) => Math.max(a, b), -Infinity);
  const scale = value => view.log ? Math.log10(value) : value;
  const x0 = low(points.map(p => p[0])), x1 = Math.max(high(points.map(p => p[0])), x0 + 1);
  const from = low(points.map(p => p[1])), to = high(points.map(p => p[1]));
  let y0 = scale(from), y1 = scale(to);
  const margin = y1 - y0 < 1e-12 ? (Math.abs(y0) || 1) / 2 : (y1 - y0) * 0.04;
  y0 = !view.log && from >= 0 ? Math.max(0, y0 - margin) : y0 - margin;
  y1 += margin;
  const X = x => left + (x - x0) / (x1 - x0) * (right - left);
  const Y = y => bottom - (scale(y) - y0) / (y1 - y0) * (bottom - top);
  const parts = [];
  if (points.length) {
    const rungs = view.log ? logTicks(10 ** y0, 10 ** y1) : ticks(y0, y1, 6), texts = labels(rungs);
    rungs.forEach((value, place) => parts.push(
      svg('line', {x1: left, x2: right, y1: Y(value), y2: Y(value), class: 'grid'}),
      svg('text', {x: left - 6, y: Y(value) + 4, 'text-anchor': 'end', class: 'y'}, texts[place])));
    for (const value of ticks(x0, x1, Math.max(3, Math.round(width / 80)), 1))
      parts.push(
        svg('line', {x1: X(value), x2: X(value), y1: bottom, y2: bottom + 4, class: 'grid'}),
        svg('text', {x: X(value), y: bottom + 17, 'text-anchor': 'middle', class: 'x'}, value));
    parts.push(
      svg('text', {x: (left + right) / 2, y: height - 8, 'text-anchor': 'middle'}, 'epoch'));
  }
  lines.forEach((line, place) => {
    const colour = colours[place % colours.length];
    if (line.length === 1)
      parts.push(svg('circle', {cx: X(line[0][0]), cy: Y(line[0][1]), r: 3, fill: colour}));
    parts.push(svg('polyline', {fill: 'none', stroke: colour, 'stroke-width': 1.8,
      'stroke-dasharray': place >= colours.length ? '5 3' : 'none',
      points: line.map(p => X(p[0]).toFixed(1) + ',' + Y(p[1]).toFixed(1)).join(' ')}));
  });
  $('plot').setAttribute('viewBox', '0 0 ' + width + ' ' + height);
  $('plot').replaceChildren(...parts);
}

function drawCompare() {
  const rows = chosen();
  $('compare').hidden = !rows.length;
  if (!rows.length) return;
  $('which').textContent = view.picked.size && rows.some(row => view.picked.has(row))
    ? 'the ticked rows' : 'the best rows (tick rows in the table to choose)';
  const head = el('tr', {}, el('th', {}, ''), ...rows.map(row =>
    el('th', {scope: 'col', title: key(row)}, row.name)));
  const lines = [];
  const swept = tab().swept;
  const order = [...swept, ...tab().columns.keys()].filter((index, place) =>
    place < swept.length || !swept.includes(index));
  order.forEach(index => {
    const column = tab().columns[index];
    if (tab().key.includes(index) || (rows.length > 1
        && rows.every(row => row.cells[index] === rows[0].cells[index]))) return;
    const first = rows[0].cells[index];
    const heading = el('th', {scope: 'row'}, ...parts(column[0]));
    lines.push(el('tr', {}, heading, ...rows.map((row, place) => {
      const value = row.cells[index];
      const by = place && number(value) && number(first) && value !== first
        ? ' (' + (value > first ? '+' : '') + Number((value - first).toPrecision(3)) + ')' : '';
      return el('td', {className: number(value) ? 'n' : 't', title: show(value)},
                show(value) + by);
    })));
  });
  const more = [['state', row => row.marks.join(', ') || '–'], ['note', row => row.note || '–'],
    ['last record', row => row.time ? moment(row.time) : '–'],
    ['run', row => row.beside.run || '–'],
    ['student run', row => row.beside.student_run || '–'], ['job', row => row.beside.job || '–'],
    ['host', row => row.beside.host || '–'], ['commit', row => row.beside.commit || '–']];
  for (const [title, get] of more)
    if (rows.some(row => get(row) !== '–')) lines.push(el('tr', {}, el('th', {scope: 'row'}, title),
      ...rows.map(row => el('td', {className: 't', title: String(get(row))}, String(get(row))))));
  for (const kind of ['log', 'artifact', 'report'])
    if (rows.some(row => row.links[kind])) lines.push(el('tr', {}, el('th', {scope: 'row'}, kind),
      ...rows.map(row => {
        const target = row.links[kind];
        if (!target) return el('td', {}, '–');
        const safe = target.startsWith('/') ? 'file://' + encodeURI(target) : null;
        return el('td', {className: 't', title: target}, safe
          ? el('a', {href: safe}, end(target, 30)) : end(target, 30));
      })));
  $('pair').replaceChildren(el('thead', {}, head), el('tbody', {}, ...lines));
}

function draw() {
  [...$('tabs').children].forEach((button, place) =>
    button.setAttribute('aria-selected', String(place === view.tab)));
  drawTable();
  drawChosen();
}

$('made').textContent = 'made ' + moment(data.made);
data.tabs.forEach((each, place) => {
  const button = el('button', {type: 'button'}, each.name + ' (' + each.rows.length + ')');
  button.setAttribute('role', 'tab');
  button.onclick = () => { view.tab = place; view.sort = null; draw(); };
  $('tabs').append(button);
});
$('tabs').onkeydown = event => {
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (!step) return;
  const next = $('tabs').children[(view.tab + step + data.tabs.length) % data.tabs.length];
  next.focus();
  next.click();
};
$('filter').oninput = event => { view.filter = event.target.value; drawTable(); };
$('all').onchange = event => { view.all = event.target.checked; drawTable(); };
$('log').onchange = event => { view.log = event.target.checked; drawCurves(); };
$('metric').onchange = event => { view.metric = event.target.value; drawCurves(); };
$('clear').onclick = () => { view.picked.clear(); draw(); };
addEventListener('resize', () => { if (data.tabs.length) drawCurves(); });
document.addEventListener('keydown', event => {
  if (event.key === '/' && document.activeElement !== $('filter')) {
    event.preventDefault();
    $('filter').focus();
  }
});
const full = data.tabs.findIndex(each => each.rows.length);
view.tab = full < 0 ? 0 : full;
if (data.tabs.length) draw();
document.body.dataset.ready = String(Math.round(performance.now()));
