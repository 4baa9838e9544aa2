select person, salary from {{ ref('salaries') }} where salary > 0
