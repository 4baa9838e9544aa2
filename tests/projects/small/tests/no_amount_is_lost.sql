-- what was ordered in the years that were built = what the customers' totals hold
select o.amount, t.amount as total
from (select sum(amount) as amount from {{ ref('orders_by_year') }}) as o
cross join (select sum(amount) as amount from {{ ref('customer_totals') }}) as t
where o.amount <> t.amount
