// A list of thousands of which only the rows in sight are in the page. Rows have one height; the container scrolls.
// Arrow keys move, Space marks for comparison, Enter selects.
export function makeRows(grid, {fill, onSelect, onMark}) {
  const frame = grid.querySelector('.window');
  const space = frame.querySelector('.space');
  const holder = frame.querySelector('.rows');
  let items = [];
  let height = 42;
  let first = -1;
  let last = -1;
  let cursor = 0;

  function measure() {
    const row = holder.querySelector('.row');
    const now = row ? row.getBoundingClientRect().height : 0;
    if (now > 20 && Math.abs(now - height) > 0.5) {
      height = now;
      return true;
    }
    return false;
  }
  function draw(force) {
    const top = Math.max(0, Math.floor(frame.scrollTop / height) - 6);
    const bottom = Math.min(items.length, Math.ceil((frame.scrollTop + (frame.clientHeight || 400)) / height) + 6);
    if (!force && top === first && bottom === last) return;
    [first, last] = [top, bottom];
    const focused = holder.contains(document.activeElement) ? document.activeElement.closest('.row')?.dataset.id : null;
    space.style.height = items.length * height + 'px';
    holder.style.transform = `translateY(${top * height}px)`;
    holder.replaceChildren(
      ...items.slice(top, bottom).map((item, i) => {
        const row = fill(item);
        row.setAttribute('aria-rowindex', top + i + 2);
        row.dataset.index = top + i;
        row.tabIndex = top + i === cursor ? 0 : -1;
        return row;
      }),
    );
    if (cursor < top || cursor >= bottom) holder.firstElementChild?.setAttribute('tabindex', '0');
    if (focused) holder.querySelector(`.row[data-id="${CSS.escape(focused)}"]`)?.focus({preventScroll: true});
    if (measure()) draw(true);
  }
  function reach(index) {
    cursor = Math.max(0, Math.min(items.length - 1, index));
    const top = cursor * height;
    const bottom = top + height;
    if (top < frame.scrollTop) frame.scrollTop = top;
    else if (bottom > frame.scrollTop + frame.clientHeight) frame.scrollTop = bottom - frame.clientHeight;
    draw(true);
  }
  frame.addEventListener('scroll', () => draw(false), {passive: true});
  holder.addEventListener('click', event => {
    const row = event.target.closest('.row');
    if (!row) return;
    cursor = +row.dataset.index;
    if (event.target.closest('.c-pick')) {
      if (!event.target.matches('input')) event.preventDefault();
      onMark(row.dataset.id);
    } else onSelect(row.dataset.id);
  });
  holder.addEventListener('keydown', event => {
    const row = event.target.closest('.row');
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(frame.clientHeight / height) - 1);
    const by = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9}[event.key];
    if (by) {
      reach(+row.dataset.index + by);
      holder.querySelector(`.row[data-index="${cursor}"]`)?.focus({preventScroll: true});
    } else if (event.key === ' ') onMark(row.dataset.id);
    else if (event.key === 'Enter') onSelect(row.dataset.id);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => {
    measure();
    draw(true);
  }).observe(frame);
  return {
    show(next) {
      items = next;
      cursor = Math.min(cursor, Math.max(0, items.length - 1));
      grid.setAttribute('aria-rowcount', items.length + 1);
      draw(true);
    },
    redraw: () => draw(true),
    bring(id) {
      const index = items.findIndex(item => item.id === id);
      if (index >= 0) reach(index);
    },
  };
}
