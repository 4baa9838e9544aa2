{{ config(materialized='view') }}
select order_id, customer, year, amount from {{ ref('raw_orders') }} where amount > 0
