{{ config(alias='customers', materialized='table') }}
select customer_id, name from {{ source('shop', 'customers_source') }}
