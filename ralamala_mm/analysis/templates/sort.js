'use strict';
for (const button of document.querySelectorAll('thead th button')) {
  button.addEventListener('click', () => {
    const heading = button.parentElement;
    const column = heading.cellIndex;
    const body = heading.closest('table').tBodies[0];
    const isNumber = heading.classList.contains('number');
    const first = isNumber ? 'descending' : 'ascending';
    const second = isNumber ? 'ascending' : 'descending';
    const direction = heading.getAttribute('aria-sort') === first ? second : first;
    for (const other of heading.parentElement.cells) other.removeAttribute('aria-sort');
    heading.setAttribute('aria-sort', direction);
    const sign = direction === 'ascending' ? 1 : -1;
    const order = row => row.cells[column].dataset.order;
    const rows = [...body.rows].sort((a, b) => sign * (isNumber ? order(a) - order(b) : order(a).localeCompare(order(b))));
    body.append(...rows);
  });
}
