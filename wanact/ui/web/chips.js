export function mount({element, props, trigger}) {
  const row = element.querySelector('.chips');
  row.setAttribute('aria-label', props.label);
  for (const text of props.texts) {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = text;
    row.append(button);
  }
  row.addEventListener('click', event => {
    if (event.target.tagName !== 'BUTTON') return;
    props.value = event.target.textContent;
    trigger('select');
  });
}
