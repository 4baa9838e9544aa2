select count(*) as employees
from {{ ref('int_starting_workforce') }}
having count(*) = 0
