import {pageAddress} from '../../web/address.js';
import {CHANNELS, channelIcon} from '../../web/channels.js';
import {announceToAll, connect, leave} from '../../web/events.js';
import {gliding} from '../../web/motion.js';
import {goTo} from '../compare/tray.js';
import {channelChart, clipChart, togetherTable} from './bars.js';
import {makeClip} from './clip_detail.js';
import {makeGrid} from './clip_grid.js';

const EVERY_MS = 4000;
// What a flag is called on a card and in the list of filters; the first ones teach something false.
const FLAG_WORDS = {
  against: ['against', 'Against their pictures'],
  cut: ['cut', 'With a hard cut'],
  copy: ['copy', 'Copies of others'],
  blurred: ['blurred', 'Blurred'],
  dark: ['dark', 'Nearly black'],
  bright: ['bright', 'Nearly white'],
  unreadable: ['unreadable', 'That cannot be read'],
  estimated: ['estimated', 'With estimated actions'],
  unmoved: ['no flight', 'Without a flight'],
  wordless: ['', 'Without a caption'],
};
const BAD = ['against', 'cut', 'unreadable'];

export function mount({element, props, trigger, server}) {
  const {hear} = connect(element);
  const root = element.querySelector('.footage');
  const find = selector => root.querySelector(selector);
  let number = 0;
  let version = '';
  let data = null;
  let items = [];
  let mayEdit = false;
  let selected = null;
  let only = null; // the clips of a verdict, by their places
  let looked = 0;
  const wanted = new Set();

  async function ask(name, message) {
    try {
      return await server[name]({number, ...message});
    } catch {
      return {problem: 'The server did not answer; try again.'};
    }
  }
  const text = (name, words, more) => Object.assign(document.createElement(name), {textContent: words, ...more});
  const plural = (count, what) => `${count.toLocaleString('en')} ${what}${count === 1 ? '' : 's'}`;
  const address = (item, file) => pageAddress(`data/${number}/${item.id}/${file}`).href;

  // ---- what there is ----------------------------------------------------------------------------------------------
  const bytesOf = held => Uint8Array.from(atob(held), one => one.charCodeAt(0));
  function take(answer) {
    if (answer.problem) {
      root.dataset.status = 'failed';
      find('.about').textContent = answer.problem;
      return;
    }
    looked = answer.looked;
    if (!answer.same) {
      data = answer;
      version = answer.version;
      mayEdit = answer.may_edit;
      const {columns} = answer;
      items = columns.id.map((id, i) => ({
        id,
        number: i,
        title: columns.title[i],
        prompt: columns.prompts[columns.prompt[i]],
        frames: columns.frames[i],
        seconds: Math.max(0, columns.frames[i] - 1) / answer.fps,
        held: [...bytesOf(columns.held[i])],
        flags: answer.flags.filter((_, bit) => columns.flags[i] & (1 << bit)),
        speed: columns.speed[i],
        turn: columns.turn[i],
        sharp: columns.sharp[i],
        light: columns.light[i],
        looked: columns.sharp[i] !== null,
        out: !!(columns.marked[i] & 1),
        anew: !!(columns.marked[i] & 2),
        split: !!(columns.marked[i] & 4),
        mended: !!(columns.marked[i] & 8),
      }));
      for (const item of items) item.channels = item.held.reduce((all, bits) => all | bits, 0);
      if (only && !answer.verdicts.some(one => one.name === only.name)) only = null;
      showVerdicts();
      showFilters();
      showClips();
      showNumbers();
    }
    showAbout();
    root.dataset.status = 'ready';
  }
  function showAbout() {
    const seconds = items.reduce((sum, item) => sum + item.seconds, 0);
    const length = seconds < 600 ? `${seconds.toFixed(0)} s` : `${(seconds / 60).toFixed(0)} min`;
    const more = data.total > items.length ? ` (the first of ${data.total.toLocaleString('en')})` : '';
    const about = find('.about');
    const out = items.filter(item => item.out).length;
    about.replaceChildren(
      text('b', data.name),
      ` · ${plural(items.length, 'clip')}${more} · ${length} at ${data.fps} frames a second${out ? ` · ${out} left out` : ''}`,
    );
    const bar = find('.bar');
    const done = Math.round((100 * looked) / Math.max(1, items.length));
    bar.hidden = looked >= items.length;
    bar.setAttribute('aria-valuenow', done);
    bar.firstElementChild.style.width = `${done}%`;
    if (!bar.hidden) about.append(` · looked at ${looked.toLocaleString('en')}`);
  }

  // ---- verdicts -----------------------------------------------------------------------------------------------------
  function showVerdicts() {
    find('.verdicts ul').replaceChildren(...data.verdicts.map(verdictRow));
    const fine = find('.fine');
    fine.hidden = data.verdicts.length > 0;
    const waits = looked < Math.min(items.length, 3);
    fine.classList.toggle('waiting', waits);
    fine.textContent = waits
      ? 'The clips are being looked at for the first time.'
      : 'Nothing is wrong that actions and pictures tell.';
    const marked = find('.marked');
    marked.hidden = !data.marks;
    marked.replaceChildren(`Marked: ${data.marks}.`);
    if (data.fixed && mayEdit)
      marked.append(
        text('button', 'Take actions as the table has them', {
          type: 'button',
          className: 'plain',
          onclick: () => change('forget_fixes', {}),
        }),
      );
  }
  function verdictRow(verdict) {
    const row = text('li', '', {className: verdict.grave ? 'grave' : ''});
    row.dataset.name = verdict.name;
    const sign = text('span', verdict.grave ? '!' : '?', {className: 'sign'});
    sign.setAttribute('aria-hidden', 'true');
    const acts = text('span', '', {className: 'acts'});
    if (verdict.clips) {
      const shown = only?.name === verdict.name;
      const button = text('button', shown ? 'Show all' : verdict.clips.length > 1 ? 'Show them' : 'Show it', {
        type: 'button',
        className: 'plain',
      });
      button.addEventListener('click', () => {
        only = shown ? null : {name: verdict.name, places: new Set(verdict.clips)};
        showVerdicts();
        showClips(true);
      });
      acts.append(button);
    }
    if (verdict.does) {
      const label = verdict.remedy[0].toUpperCase() + verdict.remedy.slice(1).split(';')[0];
      const button = text('button', label, {
        type: 'button',
        className: 'plain main',
        disabled: !mayEdit,
        title: verdict.remedy,
      });
      button.dataset.do = 'apply';
      button.addEventListener('click', () => change('apply_verdict', {name: verdict.name}));
      acts.append(button);
    }
    row.append(sign, text('span', verdict.words), acts);
    if (verdict.does && !mayEdit) row.append(text('code', `python -m wanact data DIR --apply ${verdict.name}`));
    return row;
  }
  async function change(what, message) {
    const said = find('.said');
    said.textContent = 'Keeping…';
    const answer = await ask(what, message);
    said.textContent = answer.problem || 'Kept beside the table; training reads it so, and the table is as it was.';
    await look();
    if (selected) open(selected, true);
  }

  // ---- filters and the grid ---------------------------------------------------------------------------------------
  function showFilters() {
    const select = find('.flag');
    const chosen = select.value || 'all';
    const count = test => items.filter(test).length;
    const options = [
      ['all', 'All clips'],
      ...data.flags.map(flag => [flag, `${FLAG_WORDS[flag][1]} (${count(item => item.flags.includes(flag))})`]),
      ['out', `Left out (${count(item => item.out)})`],
      ['anew', `Captioned anew (${count(item => item.anew)})`],
      ['split', `Split (${count(item => item.split)})`],
    ].filter(([value, words]) => value === 'all' || value === chosen || !words.endsWith('(0)'));
    select.replaceChildren(...options.map(([value, words]) => text('option', words, {value})));
    select.value = options.some(([value]) => value === chosen) ? chosen : 'all';
  }
  function matches(item) {
    if (only && !only.places.has(item.number)) return false;
    for (const channel of wanted) if (!(item.channels & (1 << channel))) return false;
    const [least, most] = find('.length').value.split(',').map(Number);
    if (item.seconds < least || item.seconds >= most) return false;
    const flag = find('.flag').value || 'all';
    if (['out', 'anew', 'split'].includes(flag) ? !item[flag] : flag !== 'all' && !item.flags.includes(flag))
      return false;
    const query = find('.search input').value.trim().toLowerCase();
    if (!query) return true;
    const words = `${item.prompt} ${item.title}`.toLowerCase();
    return query.split(/\s+/).every(word => words.includes(word));
  }
  function showClips(fromTop) {
    if (!data) return;
    const [key, way] = find('.sort').value.split(',');
    const value = item => item[key] ?? (way > 0 ? Infinity : -Infinity);
    const list = items.filter(matches).sort((a, b) => way * (value(a) - value(b)) || a.number - b.number);
    grid.show(list);
    if (fromTop) grid.toTop();
    find('.count').textContent =
      list.length === items.length
        ? plural(items.length, 'clip')
        : `${list.length.toLocaleString('en')} of ${items.length.toLocaleString('en')}`;
    const empty = find('.empty');
    empty.hidden = list.length > 0;
    empty.textContent = 'No clip is like that. Clear the search and the filters.';
    find('.window').hidden = !list.length;
  }
  function wordsOf(item) {
    const words = item.flags
      .filter(flag => FLAG_WORDS[flag][0])
      .map(flag => ({text: FLAG_WORDS[flag][0], bad: BAD.includes(flag)}));
    if (item.out) words.unshift({text: 'left out'});
    if (item.split) words.push({text: 'split'});
    return words;
  }

  // ---- one clip -----------------------------------------------------------------------------------------------------
  async function open(id, again) {
    selected = id;
    grid.select(id);
    props.value = id;
    if (!again) {
      trigger('input');
      detail.waiting(items.find(item => item.id === id)?.title || '');
    }
    const answer = await ask('show_data_clip', {id});
    if (selected !== id) return;
    if (answer.problem && !answer.id) detail.nothing(answer.problem);
    else detail.show(answer, mayEdit);
    if (!again && innerWidth < 1000) find('.detail').scrollIntoView({block: 'start', behavior: gliding()});
  }
  async function act(what, message) {
    if (what === 'mark') {
      const answer = await ask('mark_data_clip', message);
      if (!answer.problem) await look();
      return answer;
    }
    if (what === 'masks') return ask('mask_data_clip', message);
    const answer = await ask('fly_data_clip', {id: message.id, name: message.place});
    if (answer.problem) return answer;
    if (message.place === 'fly') {
      const input = document.querySelector('#plan-head input[type=file]');
      if (!input) return {problem: 'Plan a clip is not there; reload the page.'};
      const files = new DataTransfer();
      files.items.add(new File([answer.flight], 'clip.json', {type: 'application/json'}));
      input.files = files.files;
      input.dispatchEvent(new Event('change', {bubbles: true}));
    } else {
      leave('compare-flight', URL.createObjectURL(new Blob([answer.flight], {type: 'application/json'})));
      announceToAll('compare-flight', {});
    }
    goTo(message.place);
    return answer;
  }

  // ---- distributions -------------------------------------------------------------------------------------------------
  function showNumbers() {
    find('.channels-charts').replaceChildren(...data.histograms.map((row, i) => channelChart(row, i)));
    find('.matrix').replaceChildren(togetherTable(data.together));
    const used = items.filter(item => !item.out);
    const charts = [
      ['Length, s', 'seconds', 1],
      ['Speed', 'speed', 3],
      ['Turning, degrees', 'turn', 2],
      ['Sharpness', 'sharp', 2],
      ['Brightness', 'light', 2],
    ];
    const chart = ([title, name, digits]) =>
      clipChart(
        title,
        used.map(item => item[name]),
        digits,
      );
    find('.clips-charts').replaceChildren(...charts.map(chart));
  }

  // ---- put together ---------------------------------------------------------------------------------------------------
  const grid = makeGrid(find('.window'), {onOpen: open, picture: item => address(item, 'thumb.jpg'), wordsOf});
  const detail = makeClip(find('.detail'), {
    sheetOf: clip => address(clip, 'sheet.jpg'),
    act,
    mayFly: props.may_fly,
  });
  detail.nothing('Choose a clip to see its frames, its path and its actions beside what the picture shows.');
  CHANNELS.forEach(({label, group}, channel) => {
    const button = text('button', '', {type: 'button', className: group, title: `With ${label.toLowerCase()}`});
    button.setAttribute('aria-label', `With ${label.toLowerCase()}`);
    button.setAttribute('aria-pressed', 'false');
    button.append(channelIcon(channel));
    button.addEventListener('click', () => {
      wanted.has(channel) ? wanted.delete(channel) : wanted.add(channel);
      button.setAttribute('aria-pressed', wanted.has(channel) ? 'true' : 'false');
      showClips(true);
    });
    find('.channels').append(button);
  });
  find('.search input').addEventListener('input', () => showClips(true));
  for (const name of ['.length', '.flag', '.sort']) find(name).addEventListener('change', () => showClips(true));
  const which = find('.which select');
  find('.which').hidden = props.names.length < 2;
  which.append(...props.names.map((name, i) => text('option', name, {value: i})));
  which.addEventListener('change', () => {
    number = +which.value;
    version = '';
    only = selected = null;
    root.dataset.status = 'loading';
    detail.nothing('Choose a clip to see its frames, its path and its actions beside what the picture shows.');
    look();
  });

  // Clips are looked at one after the other, and marks may be kept by another: look again now and then, while in sight.
  let looking = false;
  async function look() {
    if (looking) return;
    looking = true;
    take(await ask('open_data', {version}));
    looking = false;
  }
  async function watchProgress() {
    if (document.hidden || !root.offsetParent || looking) return;
    if (!data) {
      await look();
      return;
    }
    if (looked >= items.length) return;
    const answer = await ask('watch_data', {});
    if (answer.problem || answer.looked === looked) return;
    if (answer.looked >= answer.clips || answer.looked - data.looked > Math.max(8, answer.clips / 20)) await look();
    else {
      looked = answer.looked;
      showAbout();
    }
  }
  setInterval(watchProgress, EVERY_MS);
  hear('place', ({place}) => {
    if (place === 'data') look();
  });
  if (root.offsetParent) look();
}
