{{ config(materialized='ephemeral', pre_hook=[]) }}
select * from {{ ref('orders') }} where amount >= 20
