{{ config(materialized='incremental', full_refresh=false) }}
select '{{ is_incremental() }}' as added_later, count(*) as orders from {{ ref('stg_orders') }}
