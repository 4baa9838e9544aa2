-- named as its folder and its tag
select customer_id, total from {{ ref('customer_totals') }}
