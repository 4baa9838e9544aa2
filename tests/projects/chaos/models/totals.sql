select c.customer, c.amount, (select max(year) from {{ ref('by_year') }}) as through_year
from {{ ref('by_customer') }} as c inner join {{ ref('by_both') }} as b on b.customer = c.customer
group by c.customer, c.amount
