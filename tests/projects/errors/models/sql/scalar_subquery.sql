select (select salary from {{ ref('employees') }}) as salary
