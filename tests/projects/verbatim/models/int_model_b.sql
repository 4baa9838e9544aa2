{{ config(materialized='table') }}
select {{ var('cola_rate') }} as cola_rate
