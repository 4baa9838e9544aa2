select customer, year, sum(amount) as amount from {{ ref('orders') }} group by customer, year
