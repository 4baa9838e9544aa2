{{ config(materialized='table') }}

select o.customer, sum(o.amount) as amount, max(y.year) as through_year
from {{ ref('stg_orders') }} as o
inner join {{ ref('orders_by_year') }} as y on y.year = o.year
group by o.customer
