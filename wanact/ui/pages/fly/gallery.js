import {connect} from '../../web/events.js';

export function mount({element, props, trigger, watch}) {
  const list = element.querySelector('.gallery');
  for (const sample of props.samples) {
    const button = document.createElement('button');
    const image = document.createElement('img');
    button.type = 'button';
    button.dataset.id = sample.id;
    button.title = sample.credit ? `${sample.name} (${sample.credit})` : sample.name;
    image.src = sample.thumbnail;
    image.alt = sample.name;
    image.draggable = false;
    button.append(image);
    list.append(button);
  }
  function mark() {
    for (const button of list.children)
      button.setAttribute('aria-pressed', button.dataset.id === props.value ? 'true' : 'false');
  }
  list.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (!button) return;
    props.value = button.dataset.id;
    mark();
    trigger('select');
  });
  // Somebody wants to start elsewhere: at the sample after the one that is marked.
  connect(element).hear('new-place', () => {
    const marked = list.querySelector('[aria-pressed=true]');
    (marked?.nextElementSibling || list.firstElementChild)?.click();
  });
  watch('value', mark);
  mark();
}
