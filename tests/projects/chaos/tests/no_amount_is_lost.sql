select 1 as lost from {{ ref('by_both') }} having sum(amount) <> (select sum(amount) from {{ ref('orders') }})
