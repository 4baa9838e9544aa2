select anualise(salary) as yearly from {{ ref('employees') }}
