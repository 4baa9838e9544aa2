select customer, sum(amount) as amount from {{ ref('kept') }} group by customer
