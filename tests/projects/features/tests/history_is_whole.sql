{{ config(tags=['history'], severity='warn', store_failures=true, alias='history_failures') }}
select order_id from {{ ref('orders_checked') }} group by order_id having count(*) > 1
