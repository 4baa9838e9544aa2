select cast(salary * 100000 as integer) as cents from {{ ref('employees') }}
