import {CHANNELS} from '../../web/channels.js';

// A grid of thousands of clips of which only the rows in sight are in the page. Arrow keys move, Enter opens.
const GAP = 8;
const LEAST_WIDTH = 148;
const MOST_SHOWN = 40; // latent frames whose keys a card draws

export function makeGrid(frame, {onOpen, picture, wordsOf}) {
  const space = frame.querySelector('.space');
  const holder = frame.querySelector('.cards');
  let items = [];
  let selected = null;
  let cursor = 0;
  let columns = 1;
  let height = 172;
  let first = -1;
  let last = -1;

  function measure() {
    const width = frame.clientWidth - 2 * GAP;
    columns = Math.max(1, Math.floor((width + GAP) / (LEAST_WIDTH + GAP)));
    holder.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    const card = holder.querySelector('.one');
    if (card) height = card.getBoundingClientRect().height + GAP;
  }
  function draw(force) {
    const rows = Math.ceil(items.length / columns);
    const from = Math.max(0, Math.floor(frame.scrollTop / height) - 2);
    const to = Math.min(rows, Math.ceil((frame.scrollTop + (frame.clientHeight || 500)) / height) + 2);
    if (!force && from === first && to === last) return;
    [first, last] = [from, to];
    const focused = holder.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    space.style.height = `${rows * height + GAP}px`;
    holder.style.transform = `translateY(${from * height}px)`;
    holder.replaceChildren(
      ...items.slice(from * columns, to * columns).map((item, i) => card(item, from * columns + i)),
    );
    const inside = cursor >= from * columns && cursor < to * columns;
    if (!inside) holder.firstElementChild?.setAttribute('tabindex', '0');
    if (focused) holder.querySelector(`.one[data-id="${focused}"]`)?.focus({preventScroll: true});
  }
  function card(item, index) {
    const node = document.createElement('button');
    node.type = 'button';
    node.className = `one${item.out ? ' out' : ''}`;
    node.dataset.id = item.id;
    node.dataset.index = index;
    node.tabIndex = index === cursor ? 0 : -1;
    node.setAttribute('role', 'option');
    node.setAttribute('aria-selected', item.id === selected ? 'true' : 'false');
    node.setAttribute('aria-label', [item.title, item.prompt, ...wordsOf(item).map(one => one.text)].join(', '));
    node.title = `${item.title}\n${item.prompt}`;
    const shot = Object.assign(document.createElement('div'), {className: 'shot'});
    if (item.looked) {
      const image = Object.assign(document.createElement('img'), {alt: '', loading: 'lazy', decoding: 'async'});
      image.addEventListener('error', () => image.remove());
      image.src = picture(item);
      shot.append(image);
    }
    if (item.held.length) shot.append(keysOf(item));
    const marks = Object.assign(document.createElement('div'), {className: 'marks'});
    for (const {text, bad} of wordsOf(item))
      marks.append(Object.assign(document.createElement('i'), {textContent: text, className: bad ? 'bad' : ''}));
    shot.append(marks);
    const words = Object.assign(document.createElement('div'), {className: 'words'});
    words.append(
      Object.assign(document.createElement('span'), {textContent: item.prompt || item.title}),
      Object.assign(document.createElement('b'), {textContent: `${item.seconds.toFixed(1)} s`}),
    );
    node.append(shot, words);
    return node;
  }
  // Eight rows, a column for each latent frame: what is held when.
  function keysOf(item) {
    const held = item.held.slice(0, MOST_SHOWN);
    const canvas = Object.assign(document.createElement('canvas'), {
      className: 'keys',
      width: 4 * held.length,
      height: 32,
    });
    const context = canvas.getContext('2d');
    held.forEach((bits, t) => {
      for (let c = 0; c < 8; c++) {
        if (!(bits & (1 << c))) continue;
        context.fillStyle = CHANNELS[c].group === 'move' ? '#a5b4fc' : '#5eead4';
        context.fillRect(4 * t, 4 * c + 0.5, 3.4, 3);
      }
    });
    return canvas;
  }
  function reach(index) {
    cursor = Math.max(0, Math.min(items.length - 1, index));
    const top = Math.floor(cursor / columns) * height;
    if (top < frame.scrollTop) frame.scrollTop = top;
    else if (top + height > frame.scrollTop + frame.clientHeight)
      frame.scrollTop = top + height + GAP - frame.clientHeight;
    draw(true);
  }
  function open(index) {
    cursor = index;
    onOpen(items[index].id);
  }
  frame.addEventListener('scroll', () => draw(false), {passive: true});
  holder.addEventListener('click', event => {
    const one = event.target.closest('.one');
    if (one) open(+one.dataset.index);
  });
  holder.addEventListener('keydown', event => {
    const one = event.target.closest('.one');
    if (!one || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(frame.clientHeight / height)) * columns;
    const steps = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: page, PageUp: -page};
    const by = {...steps, Home: -1e9, End: 1e9}[event.key];
    if (!by) return;
    reach(+one.dataset.index + by);
    holder.querySelector(`.one[data-index="${cursor}"]`)?.focus({preventScroll: true});
    event.preventDefault();
  });
  new ResizeObserver(() => {
    measure();
    draw(true);
    measure();
    draw(true);
  }).observe(frame);
  return {
    show(next) {
      items = next;
      cursor = Math.min(cursor, Math.max(0, items.length - 1));
      measure();
      draw(true);
      measure();
      draw(true);
    },
    select(id) {
      selected = id;
      draw(true);
    },
    toTop() {
      frame.scrollTop = 0;
    },
  };
}
